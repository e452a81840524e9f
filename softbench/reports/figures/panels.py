"""How a view becomes a figure: panels for what it sets apart, one look for each series, one legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softbench.errors import UsageError
from softbench.records.views import View
from softbench.reports import format
from softbench.reports.figures import drawing
from softbench.reports.rows import Key, Row, captions, described, entry, grouped, select, telling

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 24


@dataclass(frozen=True)
class Plan:
    """The panels of a view.

    Attributes:
        by: the columns that panels differ in; `panels` has their entries as keys.
        looks: of each series, by its name in the legend.
        series: the column that tells the series apart, "" for one series.
        columns: the columns that the view itself shows.
    """

    view: View
    rows: list[Row]
    by: list[str]
    panels: dict[Key, list[Row]]
    looks: dict[str, drawing.Style]
    series: str
    columns: list[str]

    def title(self, key: Key) -> str:
        pairs = zip(self.by, key, strict=True)
        return ", ".join(described(self.view, column, value) for column, value in pairs if value is not None)

    def lines(self, rows: Iterable[Row]) -> dict[str, list[Row]]:
        """The rows of a panel by the name of their series, in the order of the legend."""
        lines: dict[str, list[Row]] = {name: [] for name in self.looks}
        for row in rows:
            lines[entry(self.series, row.at(self.series)) if self.series else ""].append(row)
        return {name: line for name, line in lines.items() if line}

    def figure(self, size: tuple[float, float], columns: int = 0,
               ylabel: str = "") -> tuple[Figure, list[tuple[Axes, Key, list[Row]]]]:
        """A figure with axes of that size in inches for each panel, whose title stands above them."""
        figure, grid = self.canvas(size, columns or across(len(self.panels)), len(self.panels))
        places = [(axes, key, rows) for axes, (key, rows) in zip(grid, self.panels.items(), strict=True)]
        for axes, key, _ in places:
            axes.set_title(self.title(key), loc="left", fontsize="medium")
            place = axes.get_subplotspec()
            axes.set_ylabel(ylabel if place is None or place.is_first_col() else "")
        return figure, places

    def canvas(self, size: tuple[float, float], columns: int, count: int) -> tuple[Figure, list[Axes]]:
        """An empty figure with its title and captions, and `count` axes of that size in inches.

        Raises:
            UsageError: there are more panels than fit into a figure.
        """
        from matplotlib.figure import Figure

        view = self.view
        if count > MOST_PANELS:
            raise UsageError(f"View '{view.name}' would need {count} panels, and {MOST_PANELS} fit into a figure: keep"
                             f" fewer values of {' or '.join(c.removeprefix('env.') for c in self.by) or 'quantity'}.")
        rows = math.ceil(count / columns)
        figure = Figure(figsize=(size[0] * columns + 0.6, size[1] * rows + 1.5), dpi=120, layout="constrained")
        lines = captions(self.rows, view, [*self.columns, *self.by])
        drawing.write_head(figure, view.title, [*([view.note] if view.note else []), *lines])
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in grid[count:]:
            axes.remove()
        return figure, grid[:count]

    def legend(self, figure: Figure, *, dashes: bool = False, series: bool = True,
               extra: Sequence[tuple[str, dict[str, Any]]] = ()) -> None:
        """The look of each series, below the panels; `extra` adds lines by label and look."""
        from matplotlib.lines import Line2D

        looks = {name: look for name, look in self.looks.items() if name and series}
        handles = [Line2D([], [], color=look.colour, marker=look.marker, markersize=5, linewidth=1.5, label=name,
                          linestyle=look.dash if dashes else "none") for name, look in looks.items()]
        handles += [Line2D([], [], label=label, **look) for label, look in extra]
        if handles:
            columns = max(1, int(figure.get_size_inches()[0] / 1.9))
            figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False, handlelength=3.2)

    def name_silent(self, axes: Axes, words: dict[str, str]) -> None:
        """Name the series that have no value in this panel in its corner, each with the word that says why."""
        for line, (name, status) in enumerate(words.items()):
            axes.text(0.99, 0.985 - 0.07 * line, f"{name}: {status}".removeprefix(": "), transform=axes.transAxes,
                      fontsize=drawing.SMALL, ha="right", va="top", color=self.looks[name].colour)


def plan(view: View, rows: Iterable[Row], quantities: Iterable[str], columns: Iterable[str], panels: str,
         series: str) -> Plan | None:
    """The plan of a view whose rows are told apart by `columns`; None where no row has a value."""
    kept = select(view, rows, quantities)
    if not any(row.value is not None or row.trace for row in kept):
        return None
    shown = [column for column in (panels, series, *columns) if column]
    by = [*telling(kept, shown), *([panels] if panels else [])]
    keys = grouped(kept, by)
    by = [column for i, column in enumerate(by) if len({key[i] for key in keys}) > 1]
    names = dict.fromkeys(entry(series, key[0]) for key in grouped(kept, [series])) if series else {"": None}
    return Plan(view, kept, by, grouped(kept, by), drawing.styles(names), series, [c for c in shown if c != panels])


def across(count: int) -> int:
    """How many panels stand side by side."""
    return count if count < 4 else 2 if count == 4 else 3


def ticker(unit: str, form: str = "") -> Callable[[float], str]:
    """How values of a unit are written beside an axis."""
    return lambda value: format.rounded(format.FORMS[form](value)) if form else format.axis(value, unit)
