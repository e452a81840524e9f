"""Sections of the page: what each measure and each study has to show, machine by machine.

A table becomes a grid: cells that sort, rows that can be filtered, and units in the header.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from softbench.contracts import quantities
from softbench.errors import UsageError
from softbench.records import STATUSES, Record, to_frame
from softbench.records.views import Cases, Curves, View
from softbench.reports import figures, format, tables
from softbench.reports import rows as reports
from softbench.reports.figures import curves, drawing
from softbench.reports.page import _pictures
from softbench.reports.page._machines import Machine
from softbench.reports.page._pictures import Picture
from softbench.reports.rows import Row, grouped
from softbench.reports.sheet import Sheet, sheets
from softbench.reports.tables import Column, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FACETS = ("attention", "mode", "dtype")  # what a reader may choose rows by
_GLUED = ("x", "%")  # units that stay beside their number
_DIGITS = 12  # of a key: more than any cell shows
_PLACE = ("mode", "causal", "dtype", "batch")  # what tells rows apart that machines share


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


@dataclass(frozen=True)
class Part:
    """One machine's tables and pictures in a section.

    Attributes:
        where: the machine and its settings in one line, which captions need not repeat.
        remarks: what could not be drawn, and why.
    """

    machine: str
    where: str
    pictures: list[Picture]
    grids: list[Grid]
    remarks: list[str]


@dataclass(frozen=True)
class Section:
    """One measure or study. `merged` compares machines by their own ratios, never by times."""

    key: str
    measure: str
    title: str
    about: str
    parts: list[Part]
    merged: list[Grid] = field(default_factory=list)


def sections(machines: Sequence[Machine], views: Mapping[str, Sequence[View]], baseline: str) -> list[Section]:
    """All sections in the order of their places, those of one place in the order of the files.

    Args:
        views: of measures and studies that are shown in others than those they list.
    """
    measures = dict.fromkeys(record.measure for machine in machines for record in machine.records)
    made = []
    for number, measure in enumerate(sorted(measures, key=lambda name: quantities.section(name).place)):
        parts, shown = [], []
        for machine in machines:
            if records := machine.of(measure):
                part, arranged = _part(machine, records, views.get(measure) or quantities.views(measure), baseline,
                                       f"s{number}{machine.key}")
                parts.append(part)
                shown += [(machine.name, sheet) for sheet in arranged]
        title = quantities.section(measure).title or measure.replace("_", " ").capitalize()
        made.append(Section(f"s{number}", measure, format.text(title), format.text(quantities.about(measure)), parts,
                            list(_merged(shown))))
    return made


def _part(machine: Machine, records: Sequence[Record], views: Sequence[View], baseline: str,
          key: str) -> tuple[Part, list[Sheet]]:
    rows = reports.of(to_frame(records))
    remarks: list[str] = []
    with drawing.settings():
        pictures = [_pictures.cut(figure, f"{key}p{number}")
                    for number, figure in enumerate(_figures(views, rows, baseline, remarks))]
    facets = _facets(records)
    grids = [grid(table, facets) for table in tables.of_rows(views, rows, baseline)]
    where = _taken_out([*(grid.captions for grid in grids), *(picture.captions for picture in pictures)],
                       format.text(machine.environment.get("machine", "")))
    arranged = sheets(rows, baseline) if any(isinstance(view, Cases) for view in views) else []
    return Part(machine.name, where, pictures, grids, remarks), arranged


def _taken_out(captions: Sequence[list[str]], machine: str) -> str:
    """Remove the line that begins with the machine's name wherever there is one; the longest of them."""
    lines = {line for several in captions for line in several if machine and line.startswith(f"{machine}, ")}
    for several in captions:
        several[:] = [line for line in several if line not in lines]
    return max(lines, key=lambda line: (len(line), line), default="")


def _facets(records: Sequence[Record]) -> dict[str, str]:
    """The values that all these records have in what rows are chosen by."""
    facets = {}
    for facet in FACETS:
        values = {getattr(record, facet) for record in records}
        if len(values) == 1 and (only := format.text(values.pop())):
            facets[facet] = only
    return facets


def _figures(views: Sequence[View], rows: Sequence[Row], baseline: str, remarks: list[str]) -> Iterator[Figure]:
    """All pictures; what cannot be drawn becomes a remark."""
    for view in views:
        if isinstance(view, Curves):
            yield from _curves(view, rows, baseline, remarks)
        elif not view.is_table:
            try:
                figure = figures.draw(view, rows)
            except UsageError as error:
                remarks.append(format.text(error))
                continue
            if figure is not None:
                yield figure


def _curves(view: Curves, rows: Sequence[Row], baseline: str, remarks: list[str]) -> Iterator[Figure]:
    """A picture for each sheet; where one would need too many panels, one for each value of what varies first."""
    for sheet in sheets(rows, baseline, view.quantities):
        try:
            figure = curves.draw(view, sheet)
        except UsageError as error:
            mine = [row for row in rows if bool(row.at("model")) == sheet.models]
            column = next((c for c in sheet.varying if len({row.at(c) for row in mine}) > 1), "")
            if not column:
                remarks.append(format.text(error))
            for part in grouped(mine, [column]).values() if column else ():
                yield from _curves(view, part, baseline, remarks)
            continue
        if figure is None:
            remarks.append(f"No record of {sheet.measure} has a value to plot.")
        else:
            yield figure


def _merged(shown: Sequence[tuple[str, Sheet]]) -> Iterator[Grid]:
    """Speed-ups of several machines, each over its own baseline: one column a machine."""
    for models in (False, True):
        sides = [(machine, sheet) for machine, sheet in shown
                 if sheet.headline.is_duration and sheet.compares and sheet.models == models]
        if len(sides) < 2:
            continue
        bases = dict.fromkeys(str(sheet.baseline) for _, sheet in sides)
        rows: dict[tuple[str, ...], dict[str, str]] = {}
        sizes: dict[tuple[str, ...], int] = {}
        for machine, sheet in sides:
            for entry in sheet.entries:
                place = (*(reports.entry(c, entry.at(c)) for c in _PLACE),
                         entry.at("grid") if models else format.count(entry.tokens), entry.name)
                rows.setdefault(place, {})[machine] = format.ratio(entry.faster(sheet.headline.name))
                sizes[place] = entry.tokens
        shared = len(_PLACE)
        order = sorted(rows, key=lambda place: (place[:shared], sizes[place]))
        varying = [i for i in range(shared) if len({place[i] for place in order}) > 1]
        columns = [Column(_PLACE[i], right=_PLACE[i] == "batch") for i in varying]
        columns += [Column("image" if models else "tokens"), Column("model" if models else "attention", right=False)]
        machines = [machine for machine, _ in sides]
        cells = [[*(place[i] for i in varying), *place[shared:],
                  *(rows[place].get(m, format.MISSING) for m in machines)] for place in order]
        title = f"How many times faster than {' or '.join(bases)}, each machine against its own."
        fixed = {name: order[0][i] for i, name in enumerate(_PLACE) if name in FACETS and i not in varying}
        yield grid(Table([title], [*columns, *map(Column, machines)], cells), fixed)


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
