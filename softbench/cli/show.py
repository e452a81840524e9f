"""`softbench show`: result files as tables, on any machine, without torch."""

from __future__ import annotations

from collections.abc import Sequence

import click

from softbench.cli import _presenting, _printing, _selecting


@click.command("show")
@click.argument("files", nargs=-1, required=True)
@_selecting.options
@_printing.format_option
def show_command(files: Sequence[str], measure: str | None, attn: str | None, model: str | None, where: tuple[str, ...],
                 baseline: str, view: str | None, form: str) -> None:
    """Print result files as tables: the latest record of each case."""
    rows = _selecting.select(files, measure, attn, model, where, baseline)
    _presenting.print_records(rows, form, baseline, _presenting.choose((r.measure for r in rows), view, plot=False))
