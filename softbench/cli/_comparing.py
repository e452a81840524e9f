"""Comparisons of two runs on stdout, for the commands that make one."""

from __future__ import annotations

import json
import textwrap

from softbench.cli import _printing
from softbench.compare import sides
from softbench.compare.verdicts import Comparison, Terms


def show(compared: Comparison, base: sides.Side, head: sides.Side, terms: Terms, form: str, *,
         everything: bool = False) -> None:
    """The comparison on stdout in the format asked for."""
    from softbench.reports.tables import comparison

    if form == "jsonl":
        for row in comparison.flat(compared):
            _printing.echo(json.dumps(row, allow_nan=False))
    elif form == "csv":
        _printing.echo(comparison.to_csv(compared), nl=False)
    else:
        tables = comparison.tables(compared, base, head, terms, everything=everything)
        if tables:
            _printing.print_tables(tables, form)
            _printing.echo()
        summary = comparison.summary(compared)
        _printing.echo(textwrap.fill(summary, 80) if form == "table" else f"**{summary}**")
