"""The `Curves` view: the numbers of a measure against tokens, drawn to be read in colour, in grey and at half size.

Lines are named at their ends; a point without a number is a word at the top of its panel. Log axes throughout, except
where a single length leaves bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from softbench.contracts.quantities import Quantity
from softbench.errors import UsageError
from softbench.records.views import Curves
from softbench.reports import format
from softbench.reports.figures import drawing
from softbench.reports.figures.drawing import Point, Style
from softbench.reports.rows import Row, phrase
from softbench.reports.sheet import Entry, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 6
_PER_IMAGE = {"s": ("image/s", "Images per second"), "flop": ("GMAC", "Multiply-adds of one image")}


@dataclass
class _Panel:
    """One pair of axes: a line of points for each subject. The unit of a ratio is "x".

    Attributes:
        remarks: what is written behind the bar of a subject.
    """

    title: str
    unit: str
    lines: dict[str, list[Point]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)

    def values(self) -> list[float]:
        """All values and quartiles that are drawn."""
        shown = [p for line in self.lines.values() for p in line if p.y is not None]
        return [v for p in shown for v in (p.y, p.low, p.high) if v is not None and not math.isnan(v)]


def draw(view: Curves, sheet: Sheet) -> Figure | None:
    """The picture of a sheet; None where no row has a value.

    Raises:
        UsageError: it would need too many panels.
    """
    from matplotlib.figure import Figure

    bars = all(len({e.tokens for e in entries}) == 1 for _, entries in sheet.panels())
    panels = _panels(view, sheet, bars)
    if not any(panel.values() for panel in panels):
        return None
    styles = drawing.styles(sheet.names)
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = 0.7 + 0.34 * len(sheet.names) if bars else 3.7
    figure = Figure(figsize=(5.6 * columns + 1.0, height * rows + 1.0), dpi=120, layout="constrained")
    _, title = _per_image(sheet, sheet.headline) or ("", format.text(view.title))
    drawing.write_head(figure, title, [*sheet.captions, sheet.warning])
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        axes.set_title(panel.title, loc="left", fontsize="medium")
        if bars:
            _draw_bars(axes, panel, styles)
        else:
            _scale_axes(axes, panel, panels, {e.tokens: e.at("grid") for e in sheet.entries} if sheet.models else {})
            _draw_lines(axes, panel, styles, f"panel{number}")
    for axes in figure.axes[len(panels):]:
        axes.remove()
    if not bars:
        figure.draw_without_rendering()  # the height of the axes decides how far labels are moved apart
        for axes, panel in zip(figure.axes, panels, strict=True):
            ends = {name: next(((p.x, p.y) for p in reversed(points) if p.y is not None), None)
                    for name, points in panel.lines.items()}
            drawing.name_lines(axes, ends, {name: points[0].word for name, points in panel.lines.items()}, styles)
    return figure


def _panels(view: Curves, sheet: Sheet, bars: bool) -> list[_Panel]:
    """A panel for each combination of what varies and each quantity; for a time, its speed-ups beside it."""
    drawn = _drawn(view, sheet)
    combinations = sheet.panels()
    if len(combinations) * len(drawn) > MOST_PANELS:
        names = [*(c.removeprefix("env.") for c in sheet.varying), *(["quantity"] if len(drawn) > 1 else [])]
        raise UsageError(f"{sheet.measure} would need {len(combinations) * len(drawn)} panels, and {MOST_PANELS} "
                         f"fit into a figure: keep fewer values of {' or '.join(names)}.")
    panels = []
    for differs, entries in combinations:
        where = [phrase(column, value) for column, value in differs.items()]
        for known in drawn:
            what = [known.name.replace("_", " ")] if len(drawn) > 1 else []
            if known.is_duration:
                what.append("at the median time, and at the middle half of the samples" if _per_image(sheet, known)
                            else "median, and the middle half of the samples")
            panels.append(_panel(sheet, entries, known, ", ".join(where + what)))
            if known.is_duration and sheet.compares and not bars:
                title = ", ".join([*where, f"speed-up over {sheet.baseline} (above 1x is faster)"])
                panels.append(_speed_ups(sheet, entries, known.name, title))
    return panels


def _drawn(view: Curves, sheet: Sheet) -> list[Quantity]:
    """The quantities that have panels; of an audit one, for models its headline, which all of them have."""
    drawn: dict[str, Quantity] = {}
    for name, known in sheet.known.items():
        if not view.quantities or name in view.quantities or len(sheet.known) == 1:
            drawn.setdefault(known.audit or name, sheet.headline if sheet.models and known.audit else known)
    return list(drawn.values()) or list(sheet.known.values())


def _by_name(sheet: Sheet, entries: Sequence[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: sheet.names.index(entry.name))


def _panel(sheet: Sheet, entries: Sequence[Entry], known: Quantity, title: str) -> _Panel:
    unit, _ = _per_image(sheet, known) or (known.unit, "")
    panel, quantity = _Panel(title, unit), known.name
    for entry in _by_name(sheet, entries):
        if (row := entry.number(quantity)) is None:
            continue
        panel.lines.setdefault(entry.name, []).append(Point(entry.tokens, *_shown(row, unit), row.word))
        ratio = entry.faster(quantity) if known.is_duration else entry.ratio(quantity)
        if sheet.compares and ratio is not None and entry.name != sheet.baseline:
            panel.remarks[entry.name] = f"{format.ratio(ratio)} {'vs' if known.is_duration else 'of'} {sheet.baseline}"
    return panel


def _per_image(sheet: Sheet, known: Quantity) -> tuple[str, str] | None:
    """The unit in which a quantity of models is drawn for one image, and the title of its picture."""
    return _PER_IMAGE.get(known.unit) if sheet.models and known.per_image else None


def _shown(row: Row, unit: str) -> tuple[float | None, float, float]:
    """Value, low and high in the unit that is drawn: of models, images a second and GMAC an image."""
    value, (low, high), batch = row.sound, row.quartiles, row.at("batch")
    if unit == "GMAC":
        one = 2e9 * batch
        return None if value is None else value / one, low / one, high / one
    if unit == "image/s" and row.unit == "s":
        return batch / value if value else None, batch / high if high else high, batch / low if low else low
    return value, low, high


def _speed_ups(sheet: Sheet, entries: Sequence[Entry], quantity: str, title: str) -> _Panel:
    panel = _Panel(title, "x")
    for entry in _by_name(sheet, entries):
        if faster := entry.faster(quantity):
            panel.lines.setdefault(entry.name, []).append(Point(entry.tokens, faster))
    return panel


def _scale_axes(axes: Axes, panel: _Panel, panels: Sequence[_Panel], images: dict[int, str]) -> None:
    """Logarithmic axes with the same limits in all panels of one unit, and room for words at the top.

    Args:
        images: what images of so many pixels are called; empty where the axis is of tokens.
    """
    tokens = sorted({p.x for other in panels for line in other.lines.values() for p in line})
    drawing.scale_steps(axes, tokens, lambda tick: images.get(int(tick), format.tokens(tick)))
    axes.set_xlabel("image, by its number of pixels" if images else "tokens")
    values = [value for other in panels if other.unit == panel.unit for value in other.values()]
    drawing.scale_values(axes, values, lambda value: _tick(value, panel.unit), base=2 if panel.unit == "B" else 10)


def _tick(value: float, unit: str) -> str:
    return format.tick(value, "1") + "x" if unit == "x" else format.tick(value, unit)


def _draw_lines(axes: Axes, panel: _Panel, styles: dict[str, Style], group: str) -> None:
    """One line, band and set of markers for each subject. Their ids in an SVG are panel0-line0, panel0-band0, ..."""
    if panel.unit == "x":
        axes.axhline(1.0, color=drawing.GREY, linewidth=1.0)
    words: list[float] = []
    for number, (name, points) in enumerate(panel.lines.items()):
        drawing.draw_line(axes, points, styles[name], (group, number), words, size=5, width=1.5, alpha=0.22)


def _draw_bars(axes: Axes, panel: _Panel, styles: dict[str, Style]) -> None:
    """One bar for each subject, the first at the top, with its value written behind it."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    longest = max(panel.values(), default=1.0) or 1.0
    for place, (name, points) in enumerate(panel.lines.items()):
        point, end = points[-1], 0.0
        if point.y is not None:
            axes.barh(place, point.y, height=0.62, color=styles[name].colour, alpha=0.75, linewidth=0)
            end = max(point.y, point.high if point.high > point.low else 0.0)
            if point.high > point.low:
                axes.plot([point.low, point.high], [place, place], color="#000000", linewidth=1.2, marker="|",
                          markersize=6)
        remark = panel.remarks.get(name, "")
        text = point.word if point.y is None else f"{format.quantity(point.y, panel.unit)}   {remark}".rstrip()
        axes.text(end + longest * 0.015, place, text, va="center", fontsize=drawing.SMALL + 0.5)
    axes.set_yticks(range(len(panel.lines)),
                    ["\n".join(format.wrap(name, drawing.LABEL_WIDTH)) for name in panel.lines])
    axes.set_ylim(len(panel.lines) - 0.4, -0.6)
    axes.set_xlim(min(0.0, *panel.values(), 0.0), longest * 1.35)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, panel.unit)))
    axes.tick_params(axis="y", length=0)
