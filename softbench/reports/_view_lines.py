"""Lines of a study: quantities against a column of numbers, or their course over an iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from softbench.records.views import Lines
from softbench.reports import _drawing, format
from softbench.reports._drawing import GREY
from softbench.reports._panels import Plan, across, canvas, corner, legend, named, plan, ticker
from softbench.reports._seen import Seen, entry, grouped, select, word

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = 8  # about as many on the course of an iteration
_ABREAST = 3  # spans that can be told apart over the whole height of a panel
_REFERENCES: tuple[Any, ...] = ((0, (4, 2)), (0, (1, 2)), (0, (8, 2, 1, 2)))  # dashes


@dataclass(frozen=True)
class _Point:
    """One value of a line; where `y` is None, `word` says why."""

    x: float
    y: float | None
    low: float = math.nan
    high: float = math.nan
    word: str = ""


def lines(view: Lines, frame: pd.DataFrame) -> Figure | None:
    """The figure of the view, or None where no record has a value.

    Raises:
        UsageError: it would need too many panels.
    """
    layout = plan(view, frame, view.quantities, [view.x] if view.x else [], view.panels, view.series)
    if layout is None or not any(point.y is not None for seen in layout.found for point in _points(view, seen)):
        return None
    references = _references(view, frame)
    spans = select(view, frame, [view.span]) if view.span else []
    beside = len(view.quantities) > 1
    cells = [(key, quantity) for key in layout.panels for quantity in view.quantities]
    columns = len(view.quantities) if beside else across(len(cells))
    size = (5.6, 3.8) if len(cells) == 1 else (4.4, 2.9) if columns < 3 else (3.6, 2.5)
    figure, grid = canvas(layout, columns, len(cells), size)
    everything = [seen for found in references.values() for seen in found]
    xs = sorted({point.x for seen in [*layout.found, *everything] for point in _points(view, seen)})
    ends: dict[str, tuple[float, float] | None] = {}
    silent: dict[str, str] = {}
    for number, (axes, (key, quantity)) in enumerate(zip(grid, cells, strict=True)):
        axes.set_title(word(view, quantity) if beside else layout.title(key), loc="left", fontsize="medium")
        if number % columns == 0:
            axes.set_ylabel(layout.title(key) if beside else word(view, quantity))
        _scale(axes, view, [s for s in layout.found if s.quantity == quantity], everything, xs)
        if view.level is not None:
            axes.axhline(view.level, color=GREY, linewidth=1.0, linestyle=":")
        _draw_references(axes, view, {name: [s for s in found if s.key(layout.by) == key]
                                      for name, found in references.items()}, f"panel{number}")
        _draw_spans(axes, view, layout, [s for s in spans if s.key(layout.by) == key], f"panel{number}")
        here = [seen for seen in layout.panels[key] if seen.quantity == quantity]
        ends, silent = _draw(axes, view, layout, here, f"panel{number}")
        corner(axes, layout, {n: why for n, why in silent.items() if len(cells) > 1 or ends[n] is not None})
    if len(cells) == 1:
        figure.draw_without_rendering()
        _drawing.name_lines(grid[0], ends, silent, layout.looks)
    explained = [(name, _look(number)) for number, name in enumerate(references)]
    legend(figure, layout, dashes=True, extra=explained, series=len(cells) > 1)
    return figure


def _points(view: Lines, seen: Seen) -> list[_Point]:
    """What a record adds to its line: one point, or the course of an iteration."""
    if view.trace:
        return [_Point(step, value, word="") for step, value in enumerate(seen.trace)]
    x = seen.at(view.x)
    if not isinstance(x, int | float):
        return []
    return [_Point(x, seen.value, seen.low, seen.high, seen.word)]


def _scale(axes: Axes, view: Lines, found: Sequence[Seen], references: Sequence[Seen], xs: Sequence[float]) -> None:
    """Limits that hold all values of the quantity in every panel, so that panels compare."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    points = [point for seen in [*found, *references] for point in _points(view, seen)]
    values = [v for p in points for v in (p.y, p.low, p.high) if v is not None and not math.isnan(v)]
    if view.level is not None:
        values.append(view.level)
    values = [v for v in values if v > 0 or not view.log_y]
    unit = next((seen.unit for seen in found), "1")
    if view.limits:
        values = [min(max(v, view.limits[0]), view.limits[1]) for v in values]
    _drawing.scale_values(axes, values, ticker(unit, view.forms.get(found[0].quantity, "") if found else ""),
                          log=view.log_y)
    if view.limits and values and max(values) == view.limits[1]:
        axes.set_ylim(top=view.limits[1])
    axes.set_xlabel("iteration" if view.trace else word(view, view.x))
    if view.trace:
        axes.set_xlim(xs[0] - 0.3, max(xs[-1], 1) + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    if view.log_x and xs[0] > 0:
        axes.set_xscale("log", base=2)
        axes.set_xlim(xs[0] / 1.15, xs[-1] * 1.15)
    ticks = _drawing.spread(xs, log=view.log_x and xs[0] > 0)
    name = format.tokens if view.x == "tokens" else format.coordinate
    axes.set_xticks(ticks, [name(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)


def _draw(axes: Axes, view: Lines, layout: Plan, here: Sequence[Seen],
          group: str) -> tuple[dict[str, tuple[float, float] | None], dict[str, str]]:
    """One line for each series. Returns where each ends, and the words of those that have no value."""
    ends: dict[str, tuple[float, float] | None] = {}
    silent: dict[str, str] = {}
    taken: list[float] = []
    lowest = axes.get_ylim()[0] if view.log_y else -math.inf  # zero has no place on a logarithmic axis
    for number, (name, found) in enumerate(named(layout, view.series, here).items()):
        look = layout.looks[name]
        points = sorted((point for seen in found for point in _points(view, seen)), key=lambda point: point.x)
        drawn = [(p.x, max(p.y, lowest)) for p in points if p.y is not None]
        failed = next((seen.word for seen in found if seen.value is None), "")
        inside = [point for point in drawn if point[1] <= axes.get_ylim()[1]]
        if drawn or failed:
            ends[name] = inside[-1] if inside else None
        if failed and (view.trace or not drawn):
            silent[name] = failed
        elif drawn and not inside:
            silent[name] = "beyond the axis"
        if not drawn:
            continue
        y = [math.nan if p.y is None else max(p.y, lowest) for p in points]
        axes.plot([p.x for p in points], y, color=look.colour, linestyle=look.dash, marker=look.marker, markersize=4,
                  linewidth=1.4, markevery=max(1, len(points) // _MARKERS) if view.trace else None,
                  gid=f"{group}-line{number}")
        if any(p.high > p.low for p in points):
            axes.fill_between([p.x for p in points], [max(p.low, lowest) for p in points], [p.high for p in points],
                              color=look.colour, alpha=0.2, linewidth=0, gid=f"{group}-band{number}")
        for one, other in pairwise(points if not view.trace else []):
            value, gone = (one, other) if other.y is None else (other, one)
            if value.y is not None and gone.y is None:
                _drawing.write_word(axes, gone.x, gone.word, (value.x, max(value.y, lowest)), look, taken)
    return ends, silent


def _references(view: Lines, frame: pd.DataFrame) -> dict[str, list[Seen]]:
    """The records behind each reference line, by its name in the legend."""
    if not view.reference:
        return {}
    column = view.reference_by or view.series
    groups = grouped(select(view, frame, [view.reference]), [column])
    name = word(view, view.reference)
    return {f"{name}, {entry(column, value)}" if len(groups) > 1 else name: same for (value,), same in groups.items()}


def _draw_references(axes: Axes, view: Lines, references: dict[str, list[Seen]], group: str) -> None:
    for number, found in enumerate(references.values()):
        points = sorted({p.x: p.y for seen in found for p in _points(view, seen) if p.y is not None}.items())
        axes.plot([x for x, _ in points], [y for _, y in points], **_look(number), gid=f"{group}-reference{number}")


def _draw_spans(axes: Axes, view: Lines, layout: Plan, spans: Sequence[Seen], group: str) -> None:
    """An upright line at each value that has an interval, which is shaded, in the colour of its series.

    Many would hide each other: then each has a lane of its own, the first series at the top.
    """
    groups = named(layout, view.series, [s for s in spans if not math.isnan(s.low)])
    lanes = len(groups) if len(groups) > _ABREAST else 1
    for number, (name, found) in enumerate(groups.items()):
        top = 1 - number % lanes / lanes
        lane: dict[str, Any] = {"ymin": top - 1 / lanes, "ymax": top, "color": layout.looks[name].colour}
        for seen in found:
            axes.axvspan(seen.low, seen.high, alpha=0.25, linewidth=0, gid=f"{group}-span{number}", **lane)
            if seen.value is not None:
                axes.axvline(seen.value, linewidth=0.8, **lane)


def _look(number: int) -> dict[str, Any]:
    return {"color": GREY, "linewidth": 1.2, "linestyle": _REFERENCES[number % len(_REFERENCES)]}
