"""Tables of the page: a `Table` of text as cells that sort, rows that can be filtered, and units in the header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from softbench.records import STATUSES
from softbench.reports import format
from softbench.reports.tables import Column, Table

FACETS = ("attention", "mode", "dtype")  # what a reader may choose rows by
_GLUED = ("x", "%")  # units that stay beside their number
_DIGITS = 12  # of a key: more than any cell shows


@dataclass(frozen=True)
class Cell:
    """`key` sorts it: a number in SI units, or "" where there is none. `kind` is "status", "missing" or ""."""

    text: str
    unit: str
    key: str
    kind: str = ""


@dataclass(frozen=True)
class Line:
    """A row; `facets` are what it may be chosen by, `opens` says that it begins a group."""

    cells: list[Cell]
    facets: dict[str, str]
    opens: bool


@dataclass(frozen=True)
class Head:
    """A header. `unit` is that of the whole column, "" where cells have their own."""

    text: str
    unit: str
    right: bool


@dataclass(frozen=True)
class Body:
    """Rows that belong together under a heading, and are sorted within it."""

    heading: str
    lines: list[Line]


@dataclass(frozen=True)
class Grid:
    """A table as the template shows it."""

    title: str
    captions: list[str]
    heads: list[Head]
    bodies: list[Body]
    footnotes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(len(body.lines) for body in self.bodies)


def grid(table: Table, facets: Mapping[str, str]) -> Grid:
    """A table for the page.

    Args:
        facets: what all its rows have, where no column of it says so row by row.
    """
    title, *captions = table.captions or [""]
    units = [_unit(column, [row[place] for row in table.rows]) for place, column in enumerate(table.columns)]
    columns = {column.header: place for place, column in enumerate(table.columns)}
    own = {facet: columns[facet] for facet in FACETS if facet in columns}
    bodies = [Body("", [])] if 0 not in table.headings else []
    for number, row in enumerate(table.rows):
        if number in table.headings:
            bodies.append(Body(table.headings[number], []))
        cells = [_cell(text, column, unit) for text, column, unit in zip(row, table.columns, units, strict=True)]
        mine = {**facets, **{facet: row[place] for facet, place in own.items()}}
        bodies[-1].lines.append(Line(cells, mine, number in table.breaks and number not in table.headings))
    heads = [Head(column.header, unit, column.right) for column, unit in zip(table.columns, units, strict=True)]
    return Grid(title, captions, heads, bodies, table.footnotes)


def _unit(column: Column, cells: Sequence[str]) -> str:
    """The unit that all numbers of the column share; "" where there is none, or where some have another."""
    if not column.right:
        return ""
    units = {unit for _, unit, value in map(format.split, cells) if value is not None}
    only = units.pop() if len(units) == 1 else ""
    return "" if only in _GLUED else only


def _cell(text: str, column: Column, unit: str) -> Cell:
    kind = "missing" if text == format.MISSING else "status" if text.replace(" ", "_") in STATUSES else ""
    number, own, value = format.split(text) if column.right else (text, "", None)
    key = "" if value is None else f"{value:.{_DIGITS}g}"
    if own in _GLUED or not own:
        return Cell(text, "", key, kind)
    return Cell(number, "" if own == unit else own, key)
