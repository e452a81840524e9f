"""The picture of a comparison: one line a case with its ratio and interval, the margin shaded, the worst at the top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from softbench.compare import verdicts
from softbench.compare.sides import Side
from softbench.compare.verdicts import Comparison, Row
from softbench.errors import UsageError
from softbench.reports import format
from softbench.reports.figures import drawing
from softbench.reports.tables import comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CASES = 60
_TICKS = (1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0)
_COLOURS = {verdicts.SLOWER: "#D55E00", verdicts.WORSE: "#D55E00", verdicts.CHANGED: "#D55E00",
            verdicts.FASTER: "#0072B2", verdicts.BETTER: "#0072B2", verdicts.INCONCLUSIVE: "#8A6D00"}


def plot(compared: Comparison, base: Side, head: Side, path: Path | str) -> None:
    """Draw the ratios of all cases that have one, except exact numbers that are the same.

    Raises:
        UsageError: nothing to draw, or more cases than a figure can hold; another suffix than .png or .svg.
        ResultsError: the file cannot be written.
    """
    path = drawing.check_path(path)
    rows = [row for row in compared.rows if row.ratio and 0 < row.ratio < math.inf
            and (row.verdict != verdicts.SAME or verdicts.is_time(row.record))]
    if not rows:
        raise UsageError("No case has a ratio to plot.")
    if len(rows) > MOST_CASES:
        raise UsageError(f"{len(rows)} ratios do not fit into a figure; {MOST_CASES} do. Compare fewer cases.")
    with drawing.settings():
        drawing.write(_draw(rows, base, head), path)


def _draw(rows: Sequence[Row], base: Side, head: Side) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    figure = Figure(figsize=(7.5, 1.7 + 0.27 * len(rows)), dpi=120, layout="constrained")
    drawing.write_head(figure, "Head over base", [f"base {base.name}, head {head.name}; bars are 95 % intervals, the "
                                                  "band is what counts as the same"])
    axes = figure.subplots()
    axes.axvline(1.0, color=drawing.GREY, linewidth=1.0)
    for place, row in enumerate(rows):
        assert row.ratio is not None
        colour = _COLOURS.get(row.verdict, "#000000")
        if row.margin is not None:
            axes.barh(place, (1 + row.margin) - 1 / (1 + row.margin), left=1 / (1 + row.margin), height=0.8,
                      color=drawing.PALE, linewidth=0)
        if row.low and row.high and math.isfinite(row.high):
            axes.plot([row.low, row.high], [place, place], color=colour, linewidth=2.0, solid_capstyle="butt")
        axes.plot([row.ratio], [place], color=colour, marker="o", markersize=4.5, linestyle="none",
                  gid=f"ratio{place}")
        axes.text(1.02, place, f"{format.ratio(row.ratio)} {row.verdict}", color=colour, va="center",
                  transform=axes.get_yaxis_transform(), fontsize=drawing.SMALL)
    axes.set_yticks(range(len(rows)), [comparison.name(row, rows) for row in rows], fontsize=drawing.SMALL)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    ends = [value for row in rows for value in (row.ratio, row.low, row.high) if value and math.isfinite(value)]
    reach = max(1.1, 1.05 * max(max(value, 1 / value) for value in ends))
    axes.set_xlim(1 / reach, reach)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(reach)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=drawing.PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure


def _ticks(reach: float) -> list[float]:
    """1, and two round ratios on each side of it, within a reach to both sides."""
    steps = [step for step in (*_TICKS, *(10.0**power for power in range(1, 26))) if step < reach][-2:]
    return [*(1 / step for step in reversed(steps)), 1.0, *steps]
