"""The `Lines` view: quantities against a column of numbers, or their course over an iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from softbench.records.views import Lines
from softbench.reports import format
from softbench.reports.figures import drawing
from softbench.reports.figures.drawing import GREY, Point
from softbench.reports.figures.panels import Plan, across, plan, ticker
from softbench.reports.rows import Row, entry, grouped, select, word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = 8  # about as many on the course of an iteration
_ABREAST = 3  # spans that can be told apart over the whole height of a panel
_REFERENCES: tuple[Any, ...] = ((0, (4, 2)), (0, (1, 2)), (0, (8, 2, 1, 2)))  # dashes


def draw(view: Lines, rows: Sequence[Row]) -> Figure | None:
    """The figure of the view, or None where no row has a value.

    Raises:
        UsageError: it would need too many panels.
    """
    layout = plan(view, rows, view.quantities, [view.x] if view.x else [], view.panels, view.series)
    if layout is None or not any(point.y is not None for row in layout.rows for point in _points(view, row)):
        return None
    references = _references(view, rows)
    spans = select(view, rows, [view.span]) if view.span else []
    quantities = [quantity for quantity in view.quantities if any(row.quantity == quantity for row in layout.rows)]
    beside = len(quantities) > 1
    cells = [(key, quantity) for key in layout.panels for quantity in quantities]
    columns = len(quantities) if beside else across(len(cells))
    size = (5.6, 3.8) if len(cells) == 1 else (4.4, 2.9) if columns < 3 else (3.6, 2.5)
    figure, grid = layout.canvas(size, columns, len(cells))
    everything = [row for same in references.values() for row in same]
    places = sorted({point.x for row in [*layout.rows, *everything] for point in _points(view, row)})
    ends: dict[str, tuple[float, float] | None] = {}
    silent: dict[str, str] = {}
    for number, (axes, (key, quantity)) in enumerate(zip(grid, cells, strict=True)):
        axes.set_title(word(view, quantity) if beside else layout.title(key), loc="left", fontsize="medium")
        if number % columns == 0:
            axes.set_ylabel(layout.title(key) if beside else word(view, quantity))
        _scale(axes, view, [row for row in layout.rows if row.quantity == quantity], everything, places)
        if view.level is not None:
            axes.axhline(view.level, color=GREY, linewidth=1.0, linestyle=":")
        _draw_references(axes, view, [[row for row in same if row.key(layout.by) == key]
                                      for same in references.values()], f"panel{number}")
        _draw_spans(axes, layout, [row for row in spans if row.key(layout.by) == key], f"panel{number}")
        here = [row for row in layout.panels[key] if row.quantity == quantity]
        ends, silent = _draw(axes, view, layout, here, f"panel{number}")
        layout.name_silent(axes, {n: why for n, why in silent.items() if len(cells) > 1 or ends[n] is not None})
    if len(cells) == 1:
        figure.draw_without_rendering()
        drawing.name_lines(grid[0], ends, silent, layout.looks)
    explained = [(name, _look(number)) for number, name in enumerate(references)]
    layout.legend(figure, dashes=True, extra=explained, series=len(cells) > 1)
    return figure


def _points(view: Lines, row: Row) -> list[Point]:
    """The points that a record adds to its line: one, or the course of an iteration."""
    if view.trace:
        return [Point(step, value) for step, value in enumerate(row.trace)]
    x = row.at(view.x)
    return [Point(x, row.value, *row.interval, row.word)] if isinstance(x, int | float) else []


def _scale(axes: Axes, view: Lines, rows: Sequence[Row], references: Sequence[Row], places: Sequence[float]) -> None:
    """Limits that hold all values of the quantity in every panel, so that panels compare."""
    from matplotlib.ticker import MaxNLocator

    points = [point for row in [*rows, *references] for point in _points(view, row)]
    values = [v for p in points for v in (p.y, p.low, p.high) if v is not None and not math.isnan(v)]
    if view.level is not None:
        values.append(view.level)
    values = [v for v in values if v > 0 or not view.log_y]
    if view.limits:
        values = [min(max(v, view.limits[0]), view.limits[1]) for v in values]
    tick = ticker(rows[0].unit, view.forms.get(rows[0].quantity, "")) if rows else ticker("1")
    drawing.scale_values(axes, values, tick, log=view.log_y)
    if view.limits and values and max(values) == view.limits[1]:
        axes.set_ylim(top=view.limits[1])
    axes.set_xlabel("iteration" if view.trace else word(view, view.x))
    if view.trace:
        axes.set_xlim(places[0] - 0.3, max(places[-1], 1) + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        drawing.scale_steps(axes, places, format.tokens if view.x == "tokens" else format.coordinate, log=view.log_x)


def _draw(axes: Axes, view: Lines, layout: Plan, rows: Sequence[Row],
          group: str) -> tuple[dict[str, tuple[float, float] | None], dict[str, str]]:
    """One line for each series. Returns where each ends, and the words of those that have no value."""
    ends: dict[str, tuple[float, float] | None] = {}
    silent: dict[str, str] = {}
    taken: list[float] = []
    lowest = axes.get_ylim()[0] if view.log_y else -math.inf
    for number, (name, line) in enumerate(layout.lines(rows).items()):
        points = sorted((point for row in line for point in _points(view, row)), key=lambda point: point.x)
        drawn = [(p.x, max(p.y, lowest)) for p in points if p.y is not None]
        failed = next((row.word for row in line if row.value is None), "")
        inside = [point for point in drawn if point[1] <= axes.get_ylim()[1]]
        if drawn or failed:
            ends[name] = inside[-1] if inside else None
        if failed and (view.trace or not drawn):
            silent[name] = failed
        elif drawn and not inside:
            silent[name] = "beyond the axis"
        if drawn:
            drawing.draw_line(axes, points, layout.looks[name], (group, number), None if view.trace else taken,
                              lowest=lowest, every=max(1, len(points) // _MARKERS) if view.trace else None)
    return ends, silent


def _references(view: Lines, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows behind each reference line, by its name in the legend."""
    if not view.reference:
        return {}
    column = view.reference_by or view.series
    groups = grouped(select(view, rows, [view.reference]), [column])
    name = word(view, view.reference)
    return {f"{name}, {entry(column, value)}" if len(groups) > 1 else name: same for (value,), same in groups.items()}


def _draw_references(axes: Axes, view: Lines, references: Sequence[Sequence[Row]], group: str) -> None:
    for number, rows in enumerate(references):
        points = sorted({p.x: p.y for row in rows for p in _points(view, row) if p.y is not None}.items())
        axes.plot([x for x, _ in points], [y for _, y in points], **_look(number), gid=f"{group}-reference{number}")


def _draw_spans(axes: Axes, layout: Plan, spans: Sequence[Row], group: str) -> None:
    """An upright line at each value that has an interval, which is shaded, in the colour of its series.

    Many would hide each other: then each has a lane of its own, the first series at the top.
    """
    groups = layout.lines(row for row in spans if not math.isnan(row.interval[0]))
    lanes = len(groups) if len(groups) > _ABREAST else 1
    for number, (name, rows) in enumerate(groups.items()):
        top = 1 - number % lanes / lanes
        lane: dict[str, Any] = {"ymin": top - 1 / lanes, "ymax": top, "color": layout.looks[name].colour}
        for row in rows:
            axes.axvspan(*row.interval, alpha=0.25, linewidth=0, gid=f"{group}-span{number}", **lane)
            if row.value is not None:
                axes.axvline(row.value, linewidth=0.8, **lane)


def _look(number: int) -> dict[str, Any]:
    return {"color": GREY, "linewidth": 1.2, "linestyle": _REFERENCES[number % len(_REFERENCES)]}
