"""Figures of marks, not lines: the `Heatmap`, `Scatter` and `Dots` views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from softbench.records.views import Dots, Heatmap, Scatter
from softbench.reports import format
from softbench.reports.figures import drawing
from softbench.reports.figures.drawing import SMALL, Style
from softbench.reports.figures.panels import Plan, across, plan, ticker
from softbench.reports.rows import Row, entry, front, grouped, word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = "YlGnBu"  # its lightness falls all the way, so that it reads in grey
_NAME_ROOM = (0.055, 0.05)  # of a panel's width and height, that the name of a point takes
_TICK = "|"
_STEPS: dict[str, Any] = {"color": "#999999", "linewidth": 1.0, "linestyle": "-", "marker": "none"}


def heatmap(view: Heatmap, rows: Sequence[Row]) -> Figure | None:
    """Coloured cells with their values in them; None where no row has a value."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    layout = plan(view, rows, [view.quantity], [view.x, view.y], view.panels, "")
    if layout is None:
        return None
    xs, ys = ([key[0] for key in grouped(layout.rows, [column])] for column in (view.x, view.y))
    whole = format.whole(row.value for row in layout.rows)
    widest = max(len(entry(view.x, x)) for x in xs)
    size = 1.4 + max(0.72, 0.1 + 0.085 * widest) * len(xs), 0.9 + 0.4 * len(ys)
    figure, places = layout.figure(size, min(across(len(layout.panels)), 3 if len(xs) < 6 else 2))
    values = [row.value for row in layout.rows if row.value is not None and (row.value > 0 or not view.log)]
    low, high = min(values, default=1.0), max(values, default=1.0)
    scale = LogNorm(low, max(high, low * 1.01)) if view.log else Normalize(low, max(high, low + 1e-9))
    for axes, _, here in places:
        for row in here:
            _draw_cell(axes, xs.index(row.at(view.x)), ys.index(row.at(view.y)), row, whole,
                       None if row.value is None else colormaps[_COLOURS](0.9 * float(scale(max(row.value, low)))))
        axes.set_xlim(-0.5, len(xs) - 0.5)
        axes.set_ylim(len(ys) - 0.5, -0.5)
        axes.set_xticks(range(len(xs)), [entry(view.x, x) for x in xs])
        axes.set_yticks(range(len(ys)), [entry(view.y, y) for y in ys])
        axes.set_xlabel(word(view, view.x))
        axes.set_ylabel(word(view, view.y))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def _draw_cell(axes: Axes, x: int, y: int, row: Row, whole: bool,
               colour: tuple[float, float, float, float] | None) -> None:
    """A cell with its value; hatched, with its status, where there is none."""
    from matplotlib.patches import Rectangle

    look: dict[str, Any] = {"facecolor": colour} if colour else {"facecolor": "#ffffff", "hatch": "////",
                                                                 "edgecolor": "#cccccc"}
    axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, linewidth=0, **look))
    dark = colour is not None and sum(w * c for w, c in zip((0.3, 0.59, 0.11), colour, strict=False)) < 0.5
    if row.value is None:
        text = row.word
    else:
        text = format.tally(row.value) if whole else format.measured(row.value, row.unit)
        text += "" if row.trusted else "!"
    axes.text(x, y, text, ha="center", va="center", fontsize=SMALL, color="#ffffff" if dark else "#000000",
              label=drawing.ON_COLOUR if colour else "", bbox=None if colour else {
                  "facecolor": "#ffffff", "edgecolor": "none", "pad": 1.0})


def scatter(view: Scatter, rows: Sequence[Row]) -> Figure | None:
    """Points of two quantities with their Pareto front; None where no point has both."""
    layout = plan(view, rows, [view.x, view.y], [view.point] if view.point else [], view.panels, view.series)
    if layout is None:
        return None
    points = {key: _pairs(view, layout, here) for key, here in layout.panels.items()}
    placed = [pair for panel in points.values() for pair in panel
              if pair[1].value is not None and pair[2].value is not None]
    if not placed:
        return None
    figure, places = layout.figure((6.2, 4.2) if len(points) == 1 else (4.4, 3.4), ylabel=word(view, view.y))
    for number, (axes, key, _) in enumerate(places):
        for side, log, numbers in (("x", view.log_x, [x for _, x, _ in placed]),
                                   ("y", view.log_y, [y for _, _, y in placed])):
            values = [n.value for n in numbers if n.value is not None and (n.value > 0 or not log)]
            drawing.scale_values(axes, values, ticker(numbers[0].unit), log=log, side=side,
                                 base=2 if numbers[0].unit == "B" else 10)
        axes.set_xlabel(word(view, view.x))
        _draw_points(axes, view, layout, points[key], f"panel{number}")
    layout.legend(figure, extra=[("Pareto front (filled points)", _STEPS)])
    return figure


# A point: the name of its series, and its two numbers.
_Pair = tuple[str, Row, Row]
# The name of its series, its place, whether its numbers can be relied on, and its value of `point`.
_Spot = tuple[str, tuple[float, float], bool, Any]


def _pairs(view: Scatter, layout: Plan, rows: Sequence[Row]) -> list[_Pair]:
    pairs = []
    for name, line in layout.lines(rows).items():
        for same in grouped(line, [view.point] if view.point else []).values():
            numbers = {row.quantity: row for row in same}
            only = same[0]  # where a case failed, one record may stand for both
            if len(numbers) == 2 or only.value is None:
                pairs.append((name, numbers.get(view.x, only), numbers.get(view.y, only)))
    return pairs


def _draw_points(axes: Axes, view: Scatter, layout: Plan, pairs: Sequence[_Pair], group: str) -> None:
    lowest = (axes.get_xlim()[0] if view.log_x else -math.inf, axes.get_ylim()[0] if view.log_y else -math.inf)
    spots: list[_Spot] = [
        (name, (max(x.value, lowest[0]), max(y.value, lowest[1])), x.trusted and y.trusted, x.at(view.point))
        for name, x, y in pairs if x.value is not None and y.value is not None]
    trusted = [spot for spot in spots if spot[2]]
    best = [spot for spot, wins in zip(trusted, front([spot[1] for spot in trusted]), strict=True) if wins]
    steps = sorted(spot[1] for spot in best)
    axes.step([x for x, _ in steps], [y for _, y in steps], where="post", zorder=1, gid=f"{group}-front",
              **{key: value for key, value in _STEPS.items() if key != "marker"})
    for number, (name, look) in enumerate(layout.looks.items()):
        mine = [spot for spot in spots if spot[0] == name]
        if not mine:
            continue
        axes.plot([s[1][0] for s in mine], [s[1][1] for s in mine], color=look.colour, linewidth=0.6, alpha=0.6,
                  linestyle=look.dash if view.point else "none", gid=f"{group}-line{number}")
        for spot in mine:
            axes.plot(*spot[1], marker=look.marker, markersize=7, color=look.colour, linestyle="none",
                      zorder=3 if spot in best else 2, markerfacecolor=look.colour if spot in best else "#ffffff")
    if view.point:
        _name_points(axes, view, layout, [*best, *(spot for spot in spots if spot not in best)])
    silent = {name: next(row.word for row in (x, y) if row.value is None) for name, x, y in pairs
              if (x.value is None or y.value is None) and name not in {spot[0] for spot in spots}}
    layout.name_silent(axes, silent)


def _name_points(axes: Axes, view: Scatter, layout: Plan, spots: Sequence[_Spot]) -> None:
    """The value of `point` beside each point, the first ones first, as far as there is room."""
    to_fraction = axes.transData + axes.transAxes.inverted()
    taken: list[tuple[float, float]] = []
    for name, place, _, value in spots:
        x, y = to_fraction.transform(place)
        if value is None or any(abs(x - left) < _NAME_ROOM[0] and abs(y - low) < _NAME_ROOM[1] for left, low in taken):
            continue
        taken.append((x, y))
        axes.annotate(entry(view.point, value), place, xytext=(5, 4), textcoords="offset points", fontsize=SMALL - 1,
                      color=layout.looks[name].colour)


def dots(view: Dots, rows: Sequence[Row]) -> Figure | None:
    """One line of dots for each name; None where no row has a value."""
    quantities = [quantity for quantity in (view.quantity, view.reference) if quantity]
    layout = plan(view, rows, quantities, [view.y], view.panels, view.series)
    if layout is None:
        return None
    names = [key[0] for key in grouped(layout.rows, [view.y])]
    figure, places = layout.figure((4.0, 0.9 + 0.34 * len(names)))
    values = [v for row in layout.rows for v in (row.value, *row.interval) if v is not None and not math.isnan(v)]
    tick = ticker(layout.rows[0].unit, view.forms.get(view.quantity, ""))
    columns = across(len(places))
    for number, (axes, _, here) in enumerate(places):
        drawing.scale_values(axes, [v for v in values if v > 0 or not view.log_x], tick, log=view.log_x, side="x")
        groups = layout.lines(here)
        for place, (name, line) in enumerate(groups.items()):
            for row in line:
                level = names.index(row.at(view.y)) + 0.5 * (place + 0.5) / len(groups) - 0.25
                _draw_dot(axes, row, level, layout.looks[name], tick=row.quantity == view.reference)
        axes.set_yticks(range(len(names)), [entry(view.y, name) for name in names] if number % columns == 0 else [])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(word(view, view.quantity))
        axes.tick_params(axis="y", length=0)
    ticks: dict[str, Any] = {"color": "#444444", "marker": _TICK, "markersize": 9, "linestyle": "none"}
    layout.legend(figure, extra=[(word(view, view.reference), ticks)] if view.reference else [])
    return figure


def _draw_dot(axes: Axes, row: Row, level: float, look: Style, tick: bool) -> None:
    if row.value is None:
        axes.text(0.02, level, row.word, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL,
                  color=look.colour)
        return
    lowest, (low, high) = axes.get_xlim()[0], row.interval
    if high > low:
        axes.plot([max(low, lowest), high], [level, level], color=look.colour, linewidth=1.2)
    axes.axhline(round(level), color=drawing.PALE, linewidth=0.6, zorder=0)
    axes.plot(max(row.value, lowest), level, marker=_TICK if tick else look.marker, color=look.colour,
              markersize=9 if tick else 6, markerfacecolor=look.colour if row.trusted else "#ffffff")
