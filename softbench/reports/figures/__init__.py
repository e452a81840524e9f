"""Figures: a frame of one measure's records becomes the pictures that its plugin lists, as PNG or SVG.

Every subject keeps one colour, marker and dash in all panels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softbench.contracts import quantities
from softbench.errors import UsageError
from softbench.records.views import Curves, Dots, Fitted, Heatmap, Lines, Roofline, Scatter, View
from softbench.reports import rows as of_frame
from softbench.reports.figures import curves, drawing, fitted, lines, marks, roofline
from softbench.reports.figures.drawing import check_path as check_path
from softbench.reports.rows import Row
from softbench.reports.sheet import sheets

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_DRAWN_BY: dict[type[View], Callable[[Any, Sequence[Row]], Figure | None]] = {
    Lines: lines.draw, Heatmap: marks.heatmap, Scatter: marks.scatter, Dots: marks.dots, Fitted: fitted.draw,
    Roofline: roofline.draw}


def plot(frame: pd.DataFrame, path: Path | str, *, baseline: str = "", view: View | None = None) -> bool:
    """Draw a view of a measure's or study's records into a file; False where the frame has nothing for it.

    Args:
        baseline: what the ratios of cases refer to (`softbench.reports.sheet.sheets`).
        view: left out, the first picture that the plugin lists.
    Raises:
        UsageError: another suffix than .png or .svg, several measures, attentions beside models, too many panels.
        ResultsError: the file cannot be written.
    """
    path = check_path(path)
    rows = of_frame.of(frame)
    measure = one(str(row.at("measure")) for row in rows)
    with drawing.settings():
        figure = draw(view or main(quantities.views(measure))[0], rows, baseline)
        if figure is not None:
            drawing.write(figure, path)
    return figure is not None


def one(measures: Iterable[str]) -> str:
    """The measure that all these are. Raises UsageError where there are several, or none."""
    names = list(dict.fromkeys(measures))
    if len(names) != 1:
        raise UsageError(f"These records hold several measures ({', '.join(names)}): choose one to plot." if names else
                         "There are no records to show.")
    return names[0]


def main(views: Sequence[View]) -> list[View]:
    """The pictures that are drawn where none is named: the curves of cases, or else all."""
    return [view for view in views if isinstance(view, Curves)] or [view for view in views if not view.is_table]


def draw(view: View, rows: Sequence[Row], baseline: str = "") -> Figure | None:
    """The figure of a view, to be made and written under `drawing.settings`; None where there is nothing to draw.

    Raises:
        UsageError: it would need too many panels, or both attentions and models are among the cases.
    """
    if not isinstance(view, Curves):
        by = next(by for kind, by in _DRAWN_BY.items() if isinstance(view, kind))
        return by(view, rows)
    arranged = sheets(rows, baseline, view.quantities)
    if len(arranged) > 1:
        raise UsageError("These records hold both attentions and whole models: choose some with --attn or --model.")
    return curves.draw(view, arranged[0])
