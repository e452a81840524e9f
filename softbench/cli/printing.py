"""Printing: a table in the format asked for, to stdout; rich on a terminal, stable plain text everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from softbench.reports.tables import Table

FORMATS = ("table", "csv", "md", "jsonl")

format_option = click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True,
                             help="What to print: tables to read, or the records as CSV or JSON Lines.")


def print_tables(sheets: Sequence[Table], form: str) -> None:
    """Tables on stdout, one after the other."""
    from softbench.reports import tables

    if form == "table" and sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        for sheet in sheets:
            console.print(tables.rich_table(sheet))
        return
    render = tables.plain if form == "table" else tables.markdown
    click.echo("\n".join(render(sheet) for sheet in sheets), nl=False)


def listing(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of plain text columns; the last one folds where it is too wide."""
    from softbench.reports.tables import Column, Table

    columns = [Column(text, right=False, wraps=text == header[-1]) for text in header]
    return Table([title], columns, [list(row) for row in rows])


def say(message: str) -> None:
    """A remark for the person at the terminal, on stderr. Where nobody can hear it any more, the run goes on."""
    with suppress(OSError):  # a closed pipe, a log on a full disk
        click.echo(printable(message), err=True)


def printable(text: str) -> str:
    """The text without what a terminal would obey, such as names of files may hold."""
    return "".join(c if c.isprintable() or c == "\n" or 0xD800 <= ord(c) < 0xE000 else " " for c in text)
