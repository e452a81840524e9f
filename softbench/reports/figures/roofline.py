"""The `Roofline` view: what calls achieve, as marks below the slope of the bandwidth and the level of the FLOP rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from softbench.records.views import Roofline
from softbench.reports import format
from softbench.reports.figures import drawing
from softbench.reports.figures.panels import Plan, plan
from softbench.reports.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CEILING: dict[str, Any] = {"color": drawing.GREY, "linewidth": 1.4, "linestyle": "-", "marker": "none"}
_ROOM = 2.0  # factor by which axes reach beyond what they show


def draw(view: Roofline, rows: Sequence[Row]) -> Figure | None:
    """One panel for each value of `panels` and each machine; None where no record knows its limit."""
    known = [row for row in rows if {"work", "limit"} <= row.detail.keys()]
    layout = plan(view, known, [view.quantity], ["tokens"], view.panels, view.series)
    if layout is None:
        return None
    figure, places = layout.figure((5.2, 3.8), ylabel="FLOP a second")
    for number, (axes, _, here) in enumerate(places):
        _draw(axes, layout, [row for row in here if row.trusted], f"panel{number}")
        axes.set_xlabel("FLOP a byte that must be moved")
    layout.legend(figure, extra=[("ceilings: bandwidth, FLOP rate", _CEILING)])
    return figure


def _draw(axes: Axes, layout: Plan, rows: Sequence[Row], group: str) -> None:
    lines = {name: [_place(row) for row in sorted(line, key=lambda row: row.at("tokens"))]
             for name, line in layout.lines(rows).items()}
    ceilings = sorted({(float(limit["bandwidth"]), float(limit["flop_rate"]))
                       for row in rows if (limit := row.detail["limit"])})
    points = [point for line in lines.values() for point in line]
    xs = [x for x, _ in points] + [rate / bandwidth for bandwidth, rate in ceilings]
    left, right = (min(xs) / _ROOM, max(xs) * _ROOM) if xs else (1.0, 10.0)
    tops = [rate for _, rate in ceilings]
    drawing.scale_values(axes, [left, right], lambda value: format.axis(value, "1"), side="x")
    drawing.scale_values(axes, [y for _, y in points] + tops, lambda value: format.axis(value, "flop/s"))
    for bandwidth, rate in ceilings:
        axes.plot([left, rate / bandwidth, right], [left * bandwidth, rate, rate], **_CEILING, gid=f"{group}-ceiling")
        axes.annotate(format.quantity(rate, "flop/s"), (right, rate), fontsize=drawing.SMALL, color=drawing.GREY,
                      ha="right", va="bottom")
        axes.annotate(format.quantity(bandwidth, "B/s"), (left, left * bandwidth), (10, -3), fontsize=drawing.SMALL,
                      textcoords="offset points", color=drawing.GREY, ha="left", va="top")
    for number, (name, line) in enumerate(lines.items()):
        look = layout.looks[name]
        axes.plot([x for x, _ in line], [y for _, y in line], color=look.colour, marker=look.marker, markersize=6,
                  linewidth=0.8, gid=f"{group}-line{number}")


def _place(row: Row) -> tuple[float, float]:
    """FLOP a byte, and FLOP a second."""
    work = row.detail["work"]
    return work["flops"] / work["bytes"], work["flops"] / float(row.value or 1.0)
