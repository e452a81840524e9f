"""A table: columns of text, drawn as plain text that fits a width, as Markdown, or for a rich terminal."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from softbench.records import STATUSES
from softbench.reports import format

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

_CAPTION_WIDTH = 80
_NARROWEST, _LONG_WORD = 12, 24  # characters that a folded column keeps, and of a word that is not broken
_STYLES = {"title": "bold", "caption": "dim", "header": "bold", "row": "", "space": "dim", "flag": "yellow"}
_STATUS_WORDS = [status for status in STATUSES if status != "ok"]


@dataclass(frozen=True)
class Column:
    """A header and its alignment, and what may become of it where the table is too wide.

    Attributes:
        wraps: its text may be folded.
        spare: it may be left out, of several those with the larger number first; 0 for never.
    """

    header: str
    right: bool = True
    wraps: bool = False
    spare: int = 0


@dataclass(frozen=True)
class Table:
    """Text in cells, ready to be drawn: `breaks` holds the indices of rows that open a new group, `headings` the lines
    that stand above some rows."""

    captions: list[str]
    columns: list[Column]
    rows: list[list[str]]
    breaks: list[int] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)
    headings: dict[int, str] = field(default_factory=dict)


class Notes(dict[str, int]):
    """Footnotes: each text has the number of its first appearance."""

    def mark(self, notes: Iterable[str]) -> list[str]:
        """Number these notes, each different one once; "" is none."""
        return [f"[{self.setdefault(note, len(self) + 1)}]" for note in dict.fromkeys(notes) if note]

    def lines(self) -> list[str]:
        return [f"[{number}] {note}" for note, number in self.items()]


def build(captions: list[str], columns: Sequence[tuple[Column, Callable[[Any], str]]], entries: Sequence[Any],
          marks: Callable[[Any], Iterable[str]]) -> Table:
    """A table with one row an entry: a cell from each column, and last the entry's marks, where any has some."""
    remarks = [" ".join(marks(entry)) for entry in entries]
    rows = [[cell(entry) for _, cell in columns] for entry in entries]
    headers = [column for column, _ in columns]
    if any(remarks):
        headers.append(Column("notes", right=False))
        rows = [[*row, remark] for row, remark in zip(rows, remarks, strict=True)]
    return Table(captions, headers, rows)


def plain(table: Table, width: int | None = None) -> str:
    """Aligned columns without colour, the same on every machine; nothing is cut off.

    Where a `width` is given and the table is wider, headers and text are folded; should that not do, spare columns go,
    which a footnote says, and then the table comes in parts that share its first columns.
    """
    return "".join(line.text.rstrip() + "\n" for line in _layout(table, width))


def markdown(table: Table) -> str:
    """A GitHub table with its captions above and its footnotes below."""
    lines = [_escape(caption) + "  " for caption in table.captions]
    lines += ["", "| " + " | ".join(_escape(c.header) for c in table.columns) + " |"]
    lines.append("|" + "|".join("---:" if c.right else ":---" for c in table.columns) + "|")
    for index, row in enumerate(table.rows):
        if index in table.headings:
            lines.append(f"| **{_escape(table.headings[index])}** " + "| " * (len(row) - 1) + "|")
        lines.append("| " + " | ".join(map(_escape, row)) + " |")
    if table.footnotes:
        lines += ["", *(f"- {_escape(note)}" for note in table.footnotes)]
    return "\n".join(lines) + "\n"


def rich_table(table: Table) -> RenderableType:
    """The plain table in the width of a rich console, with a little colour; no text of a record is read as markup."""
    return _Rich(table)


@dataclass(frozen=True)
class _Rich:
    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.text import Text

        for line in _layout(self.table, options.max_width):
            text = Text(line.text.rstrip(), style=_STYLES[line.kind], overflow="fold")
            if line.kind == "row":
                text.highlight_words(_STATUS_WORDS, "red")
            yield text


@dataclass(frozen=True)
class _Line:
    kind: str
    text: str


def _layout(table: Table, width: int | None) -> Iterator[_Line]:
    """The lines of the table as text, each with what it is."""
    table, widths = _narrowed(table, width if width is not None else sys.maxsize)
    total = width or max(_CAPTION_WIDTH, _whole(widths))
    for number, caption in enumerate(table.captions):
        yield from (_Line("caption" if number else "title", line) for line in _paragraph(caption, total))
    for part in _parts(table.columns, widths, width):
        yield from _grid(replace(table, columns=[table.columns[i] for i in part],
                                 rows=[[row[i] for i in part] for row in table.rows]), [widths[i] for i in part])
    if table.footnotes:
        yield _Line("space", "")
    for note in table.footnotes:
        yield from (_Line("flag" if note.startswith("!") else "caption", line) for line in _paragraph(note, total))


def _grid(table: Table, widths: list[int]) -> Iterator[_Line]:
    yield _Line("space", "")
    yield from (_Line("header", line) for line in _lines([c.header for c in table.columns], widths, table.columns))
    yield _Line("space", "  ".join("-" * w for w in widths))
    for index, row in enumerate(table.rows):
        if index in table.breaks:
            yield _Line("space", "")
        if index in table.headings:
            yield _Line("header", table.headings[index])
        yield from (_Line("row", line) for line in _lines(row, widths, table.columns))


def _whole(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _narrowed(table: Table, width: int) -> tuple[Table, list[int]]:
    """The table and its widths. One that is too wide gets headers and text folded, then spare columns taken away."""
    widths = [max(map(len, cells)) for cells in _by_column(table)]
    if _whole(widths) <= width:
        return table, widths
    gone: list[str] = []
    while True:
        widths = [max(map(len, [*header.split(" "), *cells])) for header, *cells in _by_column(table)]
        widths = _fold(widths, table, width)
        spare = max(table.columns, key=lambda column: column.spare)
        if _whole(widths) <= width or not spare.spare:
            break
        gone.insert(0, spare.header)
        left = [i for i, column in enumerate(table.columns) if column is not spare]
        table = replace(table, columns=[table.columns[i] for i in left],
                        rows=[[row[i] for i in left] for row in table.rows])
    if gone:
        missing = f"Not shown at this width: {', '.join(gone)}. --format md has all columns."
        table = replace(table, footnotes=[*table.footnotes, missing])
    return table, widths


def _by_column(table: Table) -> list[list[str]]:
    """The cells of each column, the header first."""
    return [[column.header, *(row[i] for row in table.rows)] for i, column in enumerate(table.columns)]


def _parts(columns: Sequence[Column], widths: Sequence[int], width: int | None) -> Iterator[list[int]]:
    """The columns of each part of the table, which all begin with those up to its first text, such as a name."""
    every = list(range(len(columns)))
    if width is None or _whole(widths) <= width:
        yield every
        return
    first = 1 + max((i for i, column in enumerate(columns) if column.wraps), default=0)
    first = first if _whole(widths[:first]) <= width // 2 else 1
    part = every[:first]
    for i in every[first:]:
        if len(part) > first and _whole([widths[j] for j in [*part, i]]) > width:
            yield part
            part = every[:first]
        part.append(i)
    yield part


def _fold(widths: list[int], table: Table, width: int) -> list[int]:
    """Widths that fit, by taking from the widest column that may wrap; words stay whole unless they are very long."""
    least = [max(_NARROWEST, *(min(len(piece.rstrip()), _LONG_WORD) for cell in cells for piece in format.pieces(cell)))
             for cells in _by_column(table)]
    while _whole(widths) > width:
        foldable = [i for i, column in enumerate(table.columns) if column.wraps and widths[i] > least[i]]
        if not foldable:
            break
        widths[max(foldable, key=lambda i: widths[i])] -= 1
    return widths


def _lines(cells: list[str], widths: list[int], columns: list[Column]) -> list[str]:
    """One row, on as many lines as its tallest cell takes."""
    stacks = [format.wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    return ["  ".join((stack[i] if i < len(stack) else "").rjust(width) if column.right else
                      (stack[i] if i < len(stack) else "").ljust(width)
                      for stack, width, column in zip(stacks, widths, columns, strict=True))
            for i in range(max(map(len, stacks)))]


def _paragraph(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _escape(text: str) -> str:
    return re.sub(r"([\\|`*<>\[\]])", r"\\\1", text)
