"""Views drawn: a view of `softbench.records.views` and a frame of one study's records in, a table or a figure out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from softbench.records.views import Dots, Fitted, Heatmap, Lines, Roofline, Rows, Scatter, View
from softbench.reports import _drawing, _view_figures, _view_fitted, _view_lines, _view_roofline, _view_tables
from softbench.reports.tables import Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def draw(view: View, frame: pd.DataFrame) -> Table | Figure | None:
    """What the view shows of a frame that holds one study; None where it has nothing to show.

    Raises:
        UsageError: a figure would need too many panels.
    """
    if isinstance(view, Rows):
        return _view_tables.table(view, frame)
    with _drawing.settings():
        return _figure(view, frame)


def tables(views: Iterable[View], frame: pd.DataFrame) -> list[Table]:
    """The tables among the views that have something to show, and one of the tasks that gave no result."""
    found = [_view_tables.table(view, frame) for view in views if isinstance(view, Rows)]
    found.append(_view_tables.unfinished(str(frame["measure"].iloc[0]), frame))
    return [table for table in found if table is not None]


def plot(view: View, frame: pd.DataFrame, path: Path | str) -> bool:
    """Draw a view that is a picture into a file; False where the frame has nothing for it.

    Raises:
        UsageError: another suffix than .png or .svg, or too many panels. ResultsError: the file cannot be written.
    """
    path = _drawing.check_path(path)
    with _drawing.settings():
        figure = _figure(view, frame)
        if figure is not None:
            _drawing.write(figure, path)
    return figure is not None


def _figure(view: View, frame: pd.DataFrame) -> Figure | None:
    if isinstance(view, Lines):
        return _view_lines.lines(view, frame)
    if isinstance(view, Heatmap):
        return _view_figures.heatmap(view, frame)
    if isinstance(view, Scatter):
        return _view_figures.scatter(view, frame)
    if isinstance(view, Fitted):
        return _view_fitted.fitted(view, frame)
    if isinstance(view, Roofline):
        return _view_roofline.roofline(view, frame)
    assert isinstance(view, Dots)
    return _view_figures.dots(view, frame)
