"""How a view becomes a figure: panels for what it sets apart, one look for each series, one legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softbench.errors import UsageError
from softbench.records.views import View
from softbench.reports import _drawing, format
from softbench.reports._seen import Key, Seen, captions, described, entry, grouped, select, telling

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 24


@dataclass(frozen=True)
class Plan:
    """What the panels of a view show.

    Attributes:
        by: the columns that panels differ in; `panels` has their entries as keys.
        looks: of each series, by its name in the legend.
        columns: the columns that the view itself shows.
    """

    view: View
    found: list[Seen]
    by: list[str]
    panels: dict[Key, list[Seen]]
    looks: dict[str, _drawing.Style]
    columns: list[str]

    def title(self, key: Key) -> str:
        pairs = zip(self.by, key, strict=True)
        return ", ".join(described(self.view, column, value) for column, value in pairs if value is not None)


def plan(view: View, frame: pd.DataFrame, quantities: Iterable[str], columns: Iterable[str], panels: str,
         series: str) -> Plan | None:
    """The plan of a view whose records are told apart by `columns`; None where no record has a value."""
    found = select(view, frame, quantities)
    if not any(seen.value is not None or seen.trace for seen in found):
        return None
    shown = [column for column in (panels, series, *columns) if column]
    by = [*telling(found, shown), *([panels] if panels else [])]
    keys = grouped(found, by)
    varying = [i for i in range(len(by)) if len({key[i] for key in keys}) > 1]
    by = [by[i] for i in varying]
    names = dict.fromkeys(entry(series, key[0]) for key in grouped(found, [series])) if series else {"": None}
    return Plan(view, found, by, grouped(found, by), _drawing.styles(names), [c for c in shown if c != panels])


def named(plan: Plan, series: str, here: Iterable[Seen]) -> dict[str, list[Seen]]:
    """The records of a panel by the name of their series, in the order of the legend."""
    groups: dict[str, list[Seen]] = {name: [] for name in plan.looks}
    for seen in here:
        groups[entry(series, seen.at(series)) if series else ""].append(seen)
    return {name: group for name, group in groups.items() if group}


def across(count: int) -> int:
    """How many panels stand side by side."""
    return count if count < 4 else 2 if count == 4 else 3


def canvas(plan: Plan, columns: int, count: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """An empty figure with its title and captions, and `count` axes of that size in inches.

    Raises:
        UsageError: there are more panels than fit into a figure.
    """
    from matplotlib.figure import Figure

    if count > MOST_PANELS:
        raise UsageError(f"View '{plan.view.name}' would need {count} panels, and {MOST_PANELS} fit into a figure: keep"
                         f" fewer values of {' or '.join(c.removeprefix('env.') for c in plan.by) or 'quantity'}.")
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(size[0] * columns + 0.6, size[1] * rows + 1.5), dpi=120, layout="constrained")
    lines = captions(plan.found, plan.view, [*plan.columns, *plan.by])
    _drawing.write_head(figure, plan.view.title, [*([plan.view.note] if plan.view.note else []), *lines])
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def legend(figure: Figure, plan: Plan, *, dashes: bool, series: bool = True,
           extra: Sequence[tuple[str, dict[str, Any]]] = ()) -> None:
    """The look of each series, below the panels; `extra` adds lines by label and look."""
    from matplotlib.lines import Line2D

    looks = {name: look for name, look in plan.looks.items() if name and series}
    handles = [Line2D([], [], color=look.colour, marker=look.marker, markersize=5, linewidth=1.5, label=name,
                      linestyle=look.dash if dashes else "none") for name, look in looks.items()]
    handles += [Line2D([], [], label=label, **look) for label, look in extra]
    if handles:
        figure.legend(handles=handles, loc="outside lower left", ncols=max(1, int(figure.get_size_inches()[0] / 1.9)),
                      frameon=False, handlelength=3.2)


def corner(axes: Axes, plan: Plan, silent: dict[str, str]) -> None:
    """Names the series that have no value in this panel, each with the word that says why."""
    for line, (name, status) in enumerate(silent.items()):
        axes.text(0.99, 0.985 - 0.07 * line, f"{name}: {status}".removeprefix(": "), transform=axes.transAxes,
                  fontsize=_drawing.SMALL, ha="right", va="top", color=plan.looks[name].colour)


def ticker(unit: str, form: str = "") -> Callable[[float], str]:
    """How values of a unit are written beside an axis."""
    return lambda value: format.rounded(format.FORMS[form](value)) if form else format.axis(value, unit)


