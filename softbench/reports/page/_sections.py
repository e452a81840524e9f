"""Sections of the page: what each measure and each study has to show, machine by machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from softbench.contracts import quantities
from softbench.errors import UsageError
from softbench.records import Record, to_frame
from softbench.records.views import Rows, View
from softbench.reports import _drawing, format, plots, tables
from softbench.reports import views as drawn
from softbench.reports.page import _grids, _pictures
from softbench.reports.page._grids import Grid
from softbench.reports.page._machines import Machine
from softbench.reports.page._pictures import Picture
from softbench.reports.sheet import Sheet, sheets
from softbench.reports.tables import Column, Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Part:
    """What one machine has to show in a section.

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


def sections(machines: Sequence[Machine], views: Mapping[str, Sequence[View]], about: Mapping[str, str],
             baseline: str) -> list[Section]:
    """All sections in the order of their places, those of one place in the order of the files.

    Args:
        views: of each study, and what a measure draws beside its own picture.
        about: of each measure and study, what it is in one line.
    """
    found = list(dict.fromkeys(record.measure for machine in machines for record in machine.records))
    order = sorted(found, key=lambda name: quantities.section(name).place)
    result = []
    for number, measure in enumerate(order):
        parts, every = [], []
        for machine in machines:
            if records := machine.of(measure):
                part, shown = _part(machine, records, views.get(measure, ()), baseline, f"s{number}{machine.key}",
                                    study=_is_study(measure, views))
                parts.append(part)
                every.append((machine, shown))
        title = quantities.section(measure).title or measure.replace("_", " ").capitalize()
        result.append(Section(f"s{number}", measure, format.text(title), format.text(about.get(measure, "")), parts,
                              list(_merged(every))))
    return result


def _is_study(measure: str, views: Mapping[str, Sequence[View]]) -> bool:
    """Whether its views have tables; those of a measure are pictures alone, beside its own table."""
    return any(isinstance(view, Rows) for view in views.get(measure, ()))


def _part(machine: Machine, records: Sequence[Record], views: Sequence[View], baseline: str, key: str, *,
          study: bool) -> tuple[Part, list[Sheet]]:
    frame = to_frame(records)
    shown = [] if study else sheets(frame, baseline)
    found = drawn.tables([view for view in views if isinstance(view, Rows)], frame) if study else \
        tables.tables(frame, baseline)
    remarks: list[str] = []
    with _drawing.settings():
        figures = [*_of_sheets(shown, frame, baseline, remarks), *_of_views(views, frame, remarks)]
        pictures = [_pictures.cut(figure, f"{key}p{number}") for number, figure in enumerate(figures)]
    facets = _facets(records)
    grids = [_grids.grid(table, facets) for table in found]
    where = _taken_out([*(grid.captions for grid in grids), *(picture.captions for picture in pictures)],
                       format.text(machine.environment.get("machine", "")))
    return Part(machine.name, where, pictures, grids, remarks), shown


def _taken_out(captions: Sequence[list[str]], machine: str) -> str:
    """Remove the line that begins with the machine's name wherever there is one; the longest of them."""
    lines = {line for found in captions for line in found if machine and line.startswith(f"{machine}, ")}
    for found in captions:
        found[:] = [line for line in found if line not in lines]
    return max(lines, key=lambda line: (len(line), line), default="")


def _facets(records: Sequence[Record]) -> dict[str, str]:
    """What all these records have in common of what rows are chosen by."""
    found = {}
    for facet in _grids.FACETS:
        values = {getattr(record, facet) for record in records}
        if len(values) == 1 and (only := format.text(values.pop())):
            found[facet] = only
    return found


def _of_sheets(found: Sequence[Sheet], frame: pd.DataFrame, baseline: str, remarks: list[str]) -> Iterator[Figure]:
    """The pictures of a measure; where one would need too many panels, one for each value of what varies first."""
    for sheet in found:
        try:
            yield plots.draw(sheet)
        except UsageError as error:
            column = next((c for c in sheet.varying if c in frame and frame[c].map(str).nunique() > 1), "")
            if not column or not any(number.value is not None for e in sheet.entries for number in e.numbers.values()):
                remarks.append(format.text(error))
                continue
            mine = frame[frame["model"].notna() == sheet.models]
            for _, part in mine.groupby(mine[column].map(str), sort=False):
                yield from _of_sheets(sheets(part, baseline), part, baseline, remarks)


def _of_views(views: Sequence[View], frame: pd.DataFrame, remarks: list[str]) -> Iterator[Figure]:
    for view in views:
        if isinstance(view, Rows):
            continue
        try:
            figure = drawn.draw(view, frame)
        except UsageError as error:
            remarks.append(format.text(error))
            continue
        if figure is not None:
            assert not isinstance(figure, Table)
            yield figure


def _merged(found: Sequence[tuple[Machine, list[Sheet]]]) -> Iterator[Grid]:
    """Speed-ups of several machines, each over its own baseline: one column a machine."""
    for models in (False, True):
        sides = [(machine.name, sheet) for machine, shown in found for sheet in shown
                 if sheet.headline.is_duration and sheet.compares and sheet.models == models]
        if len(sides) < 2:
            continue
        bases = dict.fromkeys(str(sheet.baseline) for _, sheet in sides)
        rows: dict[tuple[str, ...], dict[str, str]] = {}
        sizes: dict[tuple[str, ...], int] = {}
        for name, sheet in sides:
            for entry, ratio in zip(sheet.entries, sheet.ratios(sheet.headline.name), strict=True):
                place = (*(format.text(entry.point[c]) for c in ("mode", "dtype", "batch")),
                         entry.grid if models else format.count(entry.tokens), entry.name)
                rows.setdefault(place, {})[name] = format.ratio(1 / ratio if ratio else None)
                sizes[place] = entry.tokens
        names = [name for name, _ in sides]
        order = sorted(rows, key=lambda place: (place[:3], sizes[place]))
        varying = [i for i in range(3) if len({place[i] for place in order}) > 1]
        columns = [Column(("mode", "dtype", "batch")[i], right=i == 2) for i in varying]
        columns += [Column("image" if models else "tokens"), Column("model" if models else "attention", right=False)]
        cells = [[*(place[i] for i in varying), *place[3:], *(rows[place].get(name, format.MISSING) for name in names)]
                 for place in order]
        title = f"How many times faster than {' or '.join(bases)}, each machine against its own."
        fixed = {name: order[0][i] for i, name in enumerate(("mode", "dtype")) if i not in varying}
        yield _grids.grid(Table([title], [*columns, *map(Column, names)], cells), fixed)
