"""`softbench plot`: result files as figures, on any machine, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from softbench import records
from softbench.cli import _presenting, _selecting
from softbench.files import keep_apart


@click.command("plot")
@click.argument("files", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .png or .svg file to write.")
@_selecting.options
def plot_command(files: Sequence[str], out: Path, measure: str | None, attn: str | None, model: str | None,
                 where: tuple[str, ...], baseline: str, view: str | None) -> None:
    """Draw result files: numbers against tokens and ratios to the baseline; of a study, a picture for each view."""
    from softbench.reports import figures

    figures.check_path(out)
    rows = _selecting.select(files, measure, attn, model, where, baseline)
    chosen = _presenting.choose((r.measure for r in rows), view, plot=True)
    pictures = [path for name in {r.measure for r in rows} for path in _presenting.targets(out, name, chosen)]
    keep_apart({"--out": dict.fromkeys(pictures)}, records.expand(files))
    _presenting.plot_records(rows, out, baseline, chosen)
