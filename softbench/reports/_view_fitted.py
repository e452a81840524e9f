"""The `Fitted` view: costs as marks over the tokens, and the curves fitted to them; what is extrapolated is dashed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softbench.records.views import Fitted
from softbench.reports import _drawing, format
from softbench.reports._drawing import SMALL, Style
from softbench.reports._panels import Plan, across, canvas, legend, named, plan, ticker
from softbench.reports._seen import Key, Seen, select, word

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHED: Any = (0, (4, 2))
_TICK = "|"


@dataclass(frozen=True)
class _Series:
    """What belongs to one line: its measured records, its fit if it has one, and extrapolated records."""

    measured: list[Seen]
    fit: Seen | None
    beyond: list[Seen]

    @property
    def curve(self) -> list[tuple[float, float]]:
        curve = self.fit.row["detail"].get("curve") if self.fit else None
        return [(float(x), float(y)) for x, y in curve] if isinstance(curve, list) else []

    @property
    def breaks(self) -> list[float]:
        return list(self.fit.row["detail"].get("breaks") or []) if self.fit else []

    @property
    def ahead(self) -> list[tuple[float, float]]:
        """The extrapolated line, from where the curve ends."""
        return [*self.curve[-1:], *((s.at("tokens"), s.value) for s in self.beyond if s.value)]


def fitted(view: Fitted, frame: pd.DataFrame) -> Figure | None:
    """One panel for each value of `panels` and each machine; None where no record has a value.

    Raises:
        UsageError: it would need too many panels.
    """
    layout = plan(view, frame, [view.quantity], ["tokens"], view.panels, view.series)
    if layout is None:
        return None
    fits = [seen for seen in select(view, frame, [view.fitted]) if seen.at("cost") == view.cost]
    beyond = select(view, frame, [view.beyond])
    panels = {key: _lines(view, layout, key, fits, beyond) for key in layout.panels}
    columns = across(len(panels))
    figure, grid = canvas(layout, columns, len(panels), (6.0, 4.2) if len(panels) == 1 else (4.4, 3.2))
    unit = layout.found[0].unit
    everything = [line for lines in panels.values() for line in lines.values()]
    for number, (axes, (key, lines)) in enumerate(zip(grid, panels.items(), strict=True)):
        axes.set_title(layout.title(key), loc="left", fontsize="medium")
        _scale(axes, everything, unit)
        axes.set_xlabel(word(view, "tokens"))
        axes.set_ylabel(word(view, view.quantity) if number % columns == 0 else "")
        ends = _draw(axes, layout, lines, f"panel{number}")
        if len(panels) == 1:
            figure.draw_without_rendering()
            looks = {label: layout.looks[name] for name, (label, _, _) in ends.items()}
            _drawing.name_lines(axes, {label: end for label, end, _ in ends.values()},
                                {label: why for label, _, why in ends.values()}, looks)
        else:
            for line, (name, (label, _, _)) in enumerate(ends.items()):
                axes.text(0.02, 0.98 - 0.07 * line, label, transform=axes.transAxes, fontsize=SMALL, va="top",
                          color=layout.looks[name].colour)
    legend(figure, layout, dashes=False, series=len(panels) > 1)
    return figure


def _lines(view: Fitted, layout: Plan, key: Key, fits: Sequence[Seen], beyond: Sequence[Seen]) -> dict[str, _Series]:
    known = {seen.at(view.series) for seen in layout.found}
    here, there = (named(layout, view.series, [s for s in several if s.key(layout.by) == key
                                               and s.at(view.series) in known]) for several in (fits, beyond))
    return {name: _Series(found, next(iter(here.get(name, [])), None),
                          sorted(there.get(name, []), key=lambda seen: seen.at("tokens")))
            for name, found in named(layout, view.series, layout.panels[key]).items()}


def _scale(axes: Axes, lines: Sequence[_Series], unit: str) -> None:
    """Axes that hold everything in all panels, so that they compare."""
    from matplotlib.ticker import NullFormatter

    measured = [(s.at("tokens"), s.value) for line in lines for s in line.measured]
    drawn = [point for line in lines for point in (*line.curve, *line.ahead)]
    values = [y for _, y in (*measured, *drawn) if y is not None and y > 0]
    _drawing.scale_values(axes, values, ticker(unit), base=2 if unit == "B" else 10)
    xs = sorted({float(x) for x, _ in (*measured, *drawn)})
    axes.set_xscale("log", base=2)
    axes.set_xlim(xs[0] / 1.15, xs[-1] * 1.15)
    named = sorted({float(x) for x, _ in measured} | {s.at("tokens") for line in lines for s in line.beyond})
    ticks = _drawing.spread([x for x in named if x == 2 ** round(_log2(x))] or named)
    axes.set_xticks(ticks, [format.tokens(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)


def _log2(value: float) -> float:
    from math import log2

    return log2(value)


def _draw(axes: Axes, layout: Plan, lines: dict[str, _Series],
          group: str) -> dict[str, tuple[str, tuple[float, float] | None, str]]:
    """Marks and curves. Returns, by series, its label with the exponent, where it ends, and why it has no value."""
    ends: dict[str, tuple[str, tuple[float, float] | None, str]] = {}
    taken: list[float] = []
    for number, (name, line) in enumerate(lines.items()):
        look = layout.looks[name]
        points = sorted((s.at("tokens"), s.value) for s in line.measured if s.value is not None and s.value > 0)
        gone = min((s for s in line.measured if s.value is None), key=lambda s: s.at("tokens"), default=None)
        axes.plot([x for x, _ in points], [y for _, y in points], linestyle="none", marker=look.marker, markersize=4.5,
                  color=look.colour, gid=f"{group}-marks{number}")
        _draw_fit(axes, line, look, f"{group}-fit{number}")
        if gone is not None and points and gone.at("tokens") > points[-1][0]:
            _drawing.write_word(axes, gone.at("tokens"), gone.word, points[-1], look, taken)
        end = (line.ahead or line.curve or points)[-1:]
        ends[name] = f"{name}{_exponent(line.fit)}", end[0] if end else None, gone.word if gone is not None else ""
    return ends


def _exponent(fit: Seen | None) -> str:
    if fit is None or fit.value is None:
        return ""
    return f" N^{fit.value:.2f}±{(fit.high - fit.low) / 2:.2f}"


def _draw_fit(axes: Axes, line: _Series, look: Style, name: str) -> None:
    curve = line.curve
    axes.plot([x for x, _ in curve], [y for _, y in curve], color=look.colour, linewidth=1.2, alpha=0.8, gid=name)
    heights = dict(curve)
    bends = [(x, heights[x]) for x in line.breaks if x in heights]
    axes.plot([x for x, _ in bends], [y for _, y in bends], linestyle="none", marker=_TICK, markersize=13,
              color=look.colour, gid=f"{name}-breaks")
    if line.beyond:
        axes.plot([x for x, _ in line.ahead], [y for _, y in line.ahead], color=look.colour, linewidth=1.2,
                  linestyle=_DASHED, gid=f"{name}-beyond")
        axes.plot([x for x, _ in line.ahead[1:]], [y for _, y in line.ahead[1:]], linestyle="none", marker=look.marker,
                  markersize=5, color=look.colour, markerfacecolor="#ffffff")
