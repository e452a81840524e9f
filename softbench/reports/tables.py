"""Tables: a frame of records becomes columns of text, drawn as plain text, Markdown or for a rich terminal."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from softbench.contracts.quantities import Quantity
from softbench.errors import UsageError
from softbench.records import STATUSES
from softbench.reports import format
from softbench.reports.sheet import FOREIGN_CPU, Entry, Number, Sheet, sheets

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType

AGREEMENT = 0.01  # counts of FLOP agree where they differ by at most this share
_CAPTION_WIDTH = 80
_AFTER_SIZE = ("grid", "part")  # columns of the point that stand behind the number of tokens or the image
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


def table(frame: pd.DataFrame, baseline: str = "") -> Table:
    """The table of a frame that holds one measure, of attentions or of models.

    Raises:
        UsageError: it holds none, or several.
    """
    found = tables(frame, baseline)
    if len(found) > 1:
        names = ", ".join(dict.fromkeys(map(str, frame["measure"])))
        raise UsageError(f"These records hold several measures ({names}), or both attentions and models: choose one.")
    return found[0]


def tables(frame: pd.DataFrame, baseline: str = "") -> list[Table]:
    """One table for each measure of the frame, in order of first appearance; attentions and models apart."""
    return [_table(sheet) for sheet in sheets(frame, baseline)]


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


def to_csv(frame: pd.DataFrame) -> str:
    """One row a record, in SI units; lists and mappings are JSON text, and a missing value is empty."""
    flat = frame.map(lambda value: json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value)
    return str(flat.to_csv(index=False, lineterminator="\n"))


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


# A cell's text, from the position of its entry in the sheet.
_Cell = Callable[[int, Entry], str]


def _table(sheet: Sheet) -> Table:
    columns: list[tuple[Column, _Cell]] = [*_point_columns(sheet), *_value_columns(sheet)]
    notes: dict[str, int] = {}
    marks = [_marks(entry, notes) for entry in sheet.entries]
    if any(marks):
        columns.append((Column("notes", right=False), lambda i, e: marks[i]))
    rows = [[cell(i, entry) for _, cell in columns] for i, entry in enumerate(sheet.entries)]
    breaks, start = [], 0
    for group in sheet.groups():
        if start and len(sheet.names) > 1:
            breaks.append(start)
        start += len(group)
    footnotes = [f"[{number}] {note}" for note, number in notes.items()]
    if any(mark.startswith("!") for mark in marks):
        footnotes.insert(0, "!  The share of the CPU that other processes used while this was measured: above"
                            f" {format.share(FOREIGN_CPU)} a time is doubtful.")
    return Table([*_headlines(sheet), *sheet.captions()], [column for column, _ in columns], rows, breaks, footnotes)


def _headlines(sheet: Sheet) -> list[str]:
    """What is shown, and how its ratios are to be read."""
    quantities = list(sheet.known.values())
    first = f"{sheet.measure}: {sheet.headline.headline}" if sheet.headline.headline else f"{sheet.measure}."
    times = [known for known in quantities if known.is_duration]
    if sheet.models:
        first += "".join(f" images/s: batch over {known.header}." for known in times if known.per_image)
    if _has_floors(sheet):
        first += (" floor: the least time that this machine's bandwidth and FLOP rate allow; of limit: floor over"
                  " median.")
    lines = [first]
    if any(known.unit == "flop" for known in quantities):
        per = " GMAC are of one image." if sheet.models else ""
        lines.append(f"FLOP = 2 x MAC: a multiply-add is two operations. Papers often call GMAC GFLOPs.{per}")
    if sheet.compares and times:
        lines.append(f"vs {sheet.baseline}: how many times faster than {sheet.baseline} (above 1x is faster).")
    if sheet.compares and any(map(_has_ratio, quantities)):
        lines.append(f"of {sheet.baseline}: the value over that of {sheet.baseline} (below 1x is less).")
    return lines


def _point_columns(sheet: Sheet) -> list[tuple[Column, _Cell]]:
    columns: list[tuple[Column, _Cell]] = []
    for name in (n for n in sheet.varying if n not in _AFTER_SIZE):
        numeric = all(isinstance(entry.point[name], int | float | None) for entry in sheet.entries)
        columns.append((Column(name.removeprefix("env."), right=numeric, wraps=not numeric), _at(name)))
    if sheet.models:
        columns.append((Column("image"), lambda i, e: e.grid))
    else:
        columns.append((Column("tokens"), lambda i, e: format.count(e.tokens)))
    for name in (n for n in _AFTER_SIZE if n in sheet.varying and not (sheet.models and n == "grid")):
        columns.append((Column(name, right=False, wraps=True), _at(name)))
    columns.append((Column("model" if sheet.models else "attention", right=False, wraps=True), lambda i, e: e.name))
    if len(sheet.impls) > 1:
        columns.append((Column("impl", right=False), lambda i, e: e.impl))
    return columns


def _at(name: str) -> _Cell:
    return lambda i, e: format.text(e.point[name])


def _value_columns(sheet: Sheet) -> list[tuple[Column, _Cell]]:
    """The columns of each quantity: of a time, what its samples say; of an audit, whether its counts agree."""
    columns: list[tuple[Column, _Cell]] = []
    audits: dict[str, list[str]] = {}
    for name, known in sheet.known.items():
        if known.audit:
            audits.setdefault(known.audit, []).append(name)
            columns.append((Column(known.header), _value(name)))
        else:
            columns += _time_columns(sheet, known) if known.is_duration else _plain_columns(sheet, known)
    for counts in audits.values():
        columns += _audit_columns(sheet, counts)
    return columns


def _time_columns(sheet: Sheet, known: Quantity) -> list[tuple[Column, _Cell]]:
    quantity = known.name
    columns: list[tuple[Column, _Cell]] = [(Column(known.header), _value(quantity)), (Column("IQR"), _iqr(quantity))]
    if sheet.models and known.per_image:
        columns.append((Column("images/s"), lambda i, e: format.number(e.rate(quantity))))
    if sheet.compares:
        times_faster = [1 / r if r else None for r in sheet.ratios(quantity)]
        columns.append((Column(f"vs {sheet.baseline}"), lambda i, e: format.ratio(times_faster[i])))
    if _has_floors(sheet):
        columns += [(Column("floor", spare=1), lambda i, e: _floor(e.number(quantity))),
                    (Column("of limit"), lambda i, e: _reached(e.number(quantity)))]
    columns.append((Column("samples", spare=2), lambda i, e: _samples(e.number(quantity))))
    return columns


def _has_floors(sheet: Sheet) -> bool:
    return any(number.floor is not None for entry in sheet.entries for number in entry.numbers.values())


def _floor(number: Number | None) -> str:
    return format.MISSING if number is None else format.quantity(number.floor, number.unit)


def _reached(number: Number | None) -> str:
    if number is None or number.floor is None or not number.value:
        return format.MISSING
    return format.share(number.floor / number.value)


def _audit_columns(sheet: Sheet, counts: list[str]) -> list[tuple[Column, _Cell]]:
    columns: list[tuple[Column, _Cell]] = []
    if all(sheet.known[count].unit == "flop" for count in counts):
        columns.append((Column("GMAC"), lambda i, e: _gmac(e, counts, e.batch if sheet.models else 1)))
    return [*columns, (Column("agree", right=False), lambda i, e: _agreement(e, counts))]


def _plain_columns(sheet: Sheet, known: Quantity) -> list[tuple[Column, _Cell]]:
    quantity = known.name
    numbers = [n for e in sheet.entries if (n := e.number(quantity)) and n.value is not None]
    columns: list[tuple[Column, _Cell]] = [(Column(known.header), _value(quantity))]
    if any(n.q1 != n.q3 for n in numbers if n.samples):
        columns.append((Column("IQR"), _iqr(quantity)))
    if sheet.compares and numbers and _has_ratio(known):
        columns.append((Column(f"of {sheet.baseline}"), _ratio(sheet.ratios(quantity))))
    return columns


def _has_ratio(known: Quantity) -> bool:
    """Whether a plain column stands beside its ratios: not of a time, of an audit, or of a count that is no cost."""
    return not known.is_duration and not known.audit and (known.kind != "exact" or known.better is not None)


def _value(quantity: str) -> _Cell:
    return lambda i, e: _word_or_value(e.number(quantity))


def _word_or_value(number: Number | None) -> str:
    if number is None:
        return format.MISSING
    return format.quantity(number.value, number.unit) if number.value is not None else _status(number)


def _status(number: Number) -> str:
    return format.MISSING if number.status == "ok" else number.status


def _iqr(quantity: str) -> _Cell:
    def cell(i: int, entry: Entry) -> str:
        number = entry.number(quantity)
        if number is None or number.value is None:
            return format.MISSING
        return format.span(number.q1, number.q3, number.unit)
    return cell


def _ratio(ratios: list[float | None]) -> _Cell:
    return lambda i, e: format.ratio(ratios[i])


def _samples(number: Number | None) -> str:
    return format.MISSING if number is None or number.value is None else format.count(number.samples)


def _gmac(entry: Entry, quantities: list[str], images: int) -> str:
    flop = next((v for q in quantities if (v := entry.value(q)) is not None), None)
    return format.gmac(None if flop is None else flop / images)


def _agreement(entry: Entry, quantities: list[str]) -> str:
    """`ok` where all counts exist and agree, `no` where none stood the check, otherwise how far they are apart."""
    counts = [v for q in quantities if (v := entry.value(q)) is not None]
    if not counts and any((n := entry.number(q)) and n.status == "failed" for q in quantities):
        return "no"
    if len(counts) < 2:
        return format.MISSING
    apart = (max(counts) - min(counts)) / max(counts) if max(counts) else 0.0
    if apart > AGREEMENT:
        return f"{format.share(apart)} off"
    return "ok" if len(counts) == len(quantities) else f"{len(counts)} of {len(quantities)}"


def _marks(entry: Entry, notes: dict[str, int]) -> str:
    """The entry's flag and footnote numbers; a note that is new gets the next number."""
    found: dict[str, None] = {}
    for number in entry.numbers.values():
        if number.disturbed:
            found[f"! {format.share(number.foreign_cpu)}"] = None
    for number in entry.numbers.values():
        if number.note:
            found[f"[{notes.setdefault(number.note, len(notes) + 1)}]"] = None
    return " ".join(found)


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
        said = f"Not shown at this width: {', '.join(gone)}. --format md has all columns."
        table = replace(table, footnotes=[*table.footnotes, said])
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
