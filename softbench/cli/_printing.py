"""Printing: a table in the format asked for, to stdout; rich on a terminal, stable plain text everywhere else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from softbench.reports.tables import Table

FORMATS = ("table", "csv", "md", "jsonl")

format_option = click.option("--format", "form", type=click.Choice(FORMATS), default="table", show_default=True,
                             help="What to print: tables to read, or the records as CSV or JSON Lines.")


_own: TextIO | None = None


@contextlib.contextmanager
def own_stdout() -> Iterator[None]:
    """Keep standard output to this command alone: what C code or a raw write puts there goes to standard error.

    `sys.stdout` is the command's own until `others_to_stderr`. It is given back only to one who had put another in its
    place: at the end of a process, what plugins still have to say is no output either.
    """
    global _own
    before = _own = sys.stdout
    real = sys.__stdout__
    if real is not None and before is real:
        with contextlib.suppress(OSError):
            _own = sys.stdout = os.fdopen(os.dup(1), "w", encoding=real.encoding, errors=real.errors)
            os.dup2(2, 1)
    try:
        yield
    finally:
        if before is not real:
            sys.stdout, _own = before, None


def others_to_stderr() -> None:
    """From here on code of plugins runs: what it prints, in a thread or at the end too, goes to standard error."""
    global _own
    _own = stdout()
    sys.stdout = sys.stderr


def stdout() -> TextIO:
    """The stream that this command's own output goes to."""
    return sys.stdout if _own is None else _own


def echo(text: str = "", nl: bool = True) -> None:
    """Write to this command's own output."""
    click.echo(text, nl=nl, file=stdout())


def print_tables(sheets: Sequence[Table], form: str) -> None:
    """Tables on stdout, one after the other."""
    from softbench.reports import tables

    if form == "table" and stdout().isatty():
        from rich.console import Console

        console = Console(file=stdout())
        for sheet in sheets:
            console.print(tables.rich_table(sheet))
        return
    render = tables.plain if form == "table" else tables.markdown
    echo("\n".join(render(sheet) for sheet in sheets), nl=False)


def listing(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of plain text columns; the last one folds where it is too wide."""
    from softbench.reports.tables import Column, Table

    columns = [Column(text, right=False, wraps=text == header[-1]) for text in header]
    return Table([title], columns, [list(row) for row in rows])


def say(message: str) -> None:
    """A remark for the person at the terminal, on stderr. Where nobody can hear it any more, the run goes on."""
    with contextlib.suppress(OSError):  # a closed pipe, a log on a full disk
        click.echo(printable(message), err=True)


def printable(text: str) -> str:
    """The text without what a terminal would obey, such as names of files may hold."""
    return "".join(c if c.isprintable() or c == "\n" or 0xD800 <= ord(c) < 0xE000 else " " for c in text)
