"""The `Fitted` view: costs as marks over the tokens, and the curves fitted to them; what is extrapolated is dashed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softbench.records.views import Fitted
from softbench.reports import format
from softbench.reports.figures import drawing
from softbench.reports.figures.drawing import SMALL, Style
from softbench.reports.figures.panels import Plan, plan, ticker
from softbench.reports.rows import Key, Row, select, word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHED: Any = (0, (4, 2))
_TICK = "|"


@dataclass(frozen=True)
class _Series:
    """One line: its measured rows, its fit if it has one, and extrapolated rows."""

    measured: list[Row]
    fit: Row | None
    beyond: list[Row]

    @property
    def curve(self) -> list[tuple[float, float]]:
        curve = self.fit.detail.get("curve") if self.fit else None
        return [(float(x), float(y)) for x, y in curve] if isinstance(curve, list) else []

    @property
    def breaks(self) -> list[float]:
        return list(self.fit.detail.get("breaks") or []) if self.fit else []

    @property
    def ahead(self) -> list[tuple[float, float]]:
        """The extrapolated line, from where the curve ends."""
        return [*self.curve[-1:], *((row.at("tokens"), row.value) for row in self.beyond if row.value)]


def draw(view: Fitted, rows: Sequence[Row]) -> Figure | None:
    """One panel for each value of `panels` and each machine; None where no row has a value.

    Raises:
        UsageError: it would need too many panels.
    """
    layout = plan(view, rows, [view.quantity], ["tokens"], view.panels, view.series)
    if layout is None:
        return None
    fits = [row for row in select(view, rows, [view.fitted]) if row.at("cost") == view.cost]
    beyond = select(view, rows, [view.beyond])
    panels = {key: _series(layout, key, fits, beyond) for key in layout.panels}
    alone = len(panels) == 1
    figure, places = layout.figure((6.0, 4.2) if alone else (4.4, 3.2), ylabel=word(view, view.quantity))
    everything = [line for series in panels.values() for line in series.values()]
    for number, (axes, key, _) in enumerate(places):
        _scale(axes, everything, layout.rows[0].unit)
        axes.set_xlabel(word(view, "tokens"))
        ends = _draw(axes, layout, panels[key], f"panel{number}")
        if alone:
            figure.draw_without_rendering()
            looks = {label: layout.looks[name] for name, (label, _, _) in ends.items()}
            drawing.name_lines(axes, {label: end for label, end, _ in ends.values()},
                               {label: why for label, _, why in ends.values()}, looks)
        else:
            for line, (name, (label, _, _)) in enumerate(ends.items()):
                axes.text(0.02, 0.98 - 0.07 * line, label, transform=axes.transAxes, fontsize=SMALL, va="top",
                          color=layout.looks[name].colour)
    layout.legend(figure, series=not alone)
    return figure


def _series(layout: Plan, key: Key, fits: Sequence[Row], beyond: Sequence[Row]) -> dict[str, _Series]:
    known = {row.at(layout.series) for row in layout.rows}
    here, there = (layout.lines(row for row in several if row.key(layout.by) == key and row.at(layout.series) in known)
                   for several in (fits, beyond))
    return {name: _Series(measured, next(iter(here.get(name, [])), None),
                          sorted(there.get(name, []), key=lambda row: row.at("tokens")))
            for name, measured in layout.lines(layout.panels[key]).items()}


def _scale(axes: Axes, lines: Sequence[_Series], unit: str) -> None:
    """Axes that hold everything in all panels, so that they compare."""
    measured = [(row.at("tokens"), row.value) for line in lines for row in line.measured]
    drawn = [point for line in lines for point in (*line.curve, *line.ahead)]
    values = [y for _, y in (*measured, *drawn) if y is not None and y > 0]
    drawing.scale_values(axes, values, ticker(unit), base=2 if unit == "B" else 10)
    tokens = sorted({float(x) for x, _ in measured} | {row.at("tokens") for line in lines for row in line.beyond})
    round_ones = [x for x in tokens if x == 2 ** round(math.log2(x))]
    drawing.scale_steps(axes, sorted({float(x) for x, _ in (*measured, *drawn)}), format.tokens,
                        ticks=round_ones or tokens)


def _draw(axes: Axes, layout: Plan, lines: dict[str, _Series],
          group: str) -> dict[str, tuple[str, tuple[float, float] | None, str]]:
    """Marks and curves. Returns, by series, its label with the exponent, where it ends, and why it has no value."""
    ends: dict[str, tuple[str, tuple[float, float] | None, str]] = {}
    taken: list[float] = []
    for number, (name, line) in enumerate(lines.items()):
        look = layout.looks[name]
        points = sorted((row.at("tokens"), row.value) for row in line.measured if row.value is not None
                        and row.value > 0)
        gone = min((row for row in line.measured if row.value is None), key=lambda row: row.at("tokens"), default=None)
        _plot(axes, points, look, linestyle="none", marker=look.marker, markersize=4.5, gid=f"{group}-marks{number}")
        _draw_fit(axes, line, look, f"{group}-fit{number}")
        if gone is not None and points and gone.at("tokens") > points[-1][0]:
            drawing.write_word(axes, gone.at("tokens"), gone.word, points[-1], look, taken)
        end = (line.ahead or line.curve or points)[-1:]
        ends[name] = f"{name}{_exponent(line.fit)}", end[0] if end else None, gone.word if gone is not None else ""
    return ends


def _exponent(fit: Row | None) -> str:
    if fit is None or fit.value is None:
        return ""
    low, high = fit.interval
    return f" N^{fit.value:.2f}±{(high - low) / 2:.2f}"


def _draw_fit(axes: Axes, line: _Series, look: Style, name: str) -> None:
    heights = dict(line.curve)
    _plot(axes, line.curve, look, linewidth=1.2, alpha=0.8, gid=name)
    _plot(axes, [(x, heights[x]) for x in line.breaks if x in heights], look, linestyle="none", marker=_TICK,
          markersize=13, gid=f"{name}-breaks")
    if line.beyond:
        _plot(axes, line.ahead, look, linewidth=1.2, linestyle=_DASHED, gid=f"{name}-beyond")
        _plot(axes, line.ahead[1:], look, linestyle="none", marker=look.marker, markersize=5, markerfacecolor="#ffffff")


def _plot(axes: Axes, points: Sequence[tuple[float, float]], look: Style, **how: Any) -> None:
    axes.plot([x for x, _ in points], [y for _, y in points], color=look.colour, **how)
