"""The `Roofline` view: what calls achieve, as marks below the slope of the bandwidth and the level of the FLOP rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from softbench.records.views import Roofline
from softbench.reports import _drawing, format
from softbench.reports._panels import Plan, across, canvas, legend, named, plan
from softbench.reports._seen import Seen

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CEILING: dict[str, Any] = {"color": _drawing.GREY, "linewidth": 1.4, "linestyle": "-", "marker": "none"}
_ROOM = 2.0  # factor by which axes reach beyond what they show


def roofline(view: Roofline, frame: pd.DataFrame) -> Figure | None:
    """One panel for each value of `panels` and each machine; None where no record knows its limit."""
    known = frame[[isinstance(detail, dict) and {"work", "limit"} <= detail.keys() for detail in frame["detail"]]]
    layout = plan(view, known, [view.quantity], ["tokens"], view.panels, view.series) if len(known) else None
    if layout is None:
        return None
    columns = across(len(layout.panels))
    figure, grid = canvas(layout, columns, len(layout.panels), (5.2, 3.8))
    for number, (axes, (key, here)) in enumerate(zip(grid, layout.panels.items(), strict=True)):
        axes.set_title(layout.title(key), loc="left", fontsize="medium")
        _draw(axes, layout, [seen for seen in here if seen.trusted], view, f"panel{number}")
        axes.set_xlabel("FLOP a byte that must be moved")
        axes.set_ylabel("FLOP a second" if number % columns == 0 else "")
    legend(figure, layout, dashes=False, extra=[("ceilings: bandwidth, FLOP rate", _CEILING)])
    return figure


def _draw(axes: Axes, layout: Plan, here: Sequence[Seen], view: Roofline, group: str) -> None:
    points = {name: [_place(seen) for seen in sorted(found, key=lambda s: s.at("tokens"))]
              for name, found in named(layout, view.series, here).items()}
    ceilings = sorted({(float(limit["bandwidth"]), float(limit["flop_rate"]))
                       for seen in here if (limit := seen.row["detail"]["limit"])})
    placed = [point for found in points.values() for point in found]
    xs = [x for x, _ in placed] + [rate / bandwidth for bandwidth, rate in ceilings]
    left, right = (min(xs) / _ROOM, max(xs) * _ROOM) if xs else (1.0, 10.0)
    tops = [rate for _, rate in ceilings]
    _drawing.scale_values(axes, [left, right], lambda value: format.axis(value, "1"), side="x")
    _drawing.scale_values(axes, [y for _, y in placed] + tops, lambda value: format.axis(value, "flop/s"))
    for bandwidth, rate in ceilings:
        axes.plot([left, rate / bandwidth, right], [left * bandwidth, rate, rate], **_CEILING, gid=f"{group}-ceiling")
        axes.annotate(format.quantity(rate, "flop/s"), (right, rate), fontsize=_drawing.SMALL, color=_drawing.GREY,
                      ha="right", va="bottom")
        axes.annotate(format.quantity(bandwidth, "B/s"), (left, left * bandwidth), (10, -3), fontsize=_drawing.SMALL,
                      textcoords="offset points", color=_drawing.GREY, ha="left", va="top")
    for number, (name, found) in enumerate(points.items()):
        look = layout.looks[name]
        axes.plot([x for x, _ in found], [y for _, y in found], color=look.colour, marker=look.marker, markersize=6,
                  linewidth=0.8, gid=f"{group}-line{number}")


def _place(seen: Seen) -> tuple[float, float]:
    """FLOP a byte, and FLOP a second."""
    work = seen.row["detail"]["work"]
    return work["flops"] / work["bytes"], work["flops"] / float(seen.value or 1.0)
