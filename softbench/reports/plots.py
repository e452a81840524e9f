"""Plots: a frame of records becomes one PNG or SVG figure, drawn to be read in colour, in grey and at half size.

Every subject keeps one colour, marker and dash in all panels. Lines are named at their ends; a point without a number
is a word at the top of its panel. Log axes throughout, except where a single length leaves bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from softbench.errors import UsageError
from softbench.reports import _drawing, format
from softbench.reports._drawing import Style
from softbench.reports._drawing import check_path as check_path
from softbench.reports.sheet import Entry, Number, Sheet, phrase, sheets

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 6
_PER_IMAGE = {"s": "Images per second", "flop": "Multiply-adds of one image"}  # titles, by unit


@dataclass(frozen=True)
class _Point:
    """One value of one line, above so many tokens, or pixels where it is of a model.

    Where `value` is None, `word` says why. `remark` is written behind the value of a bar.
    """

    tokens: int
    value: float | None
    low: float = math.nan
    high: float = math.nan
    word: str = ""
    remark: str = ""


@dataclass(frozen=True)
class _Panel:
    """What one pair of axes shows: a line of points for each subject. The unit of a ratio is "x"."""

    title: str
    unit: str
    lines: dict[str, list[_Point]]

    def values(self) -> list[float]:
        """All values and quartiles that are drawn."""
        shown = [p for line in self.lines.values() for p in line if p.value is not None]
        return [v for p in shown for v in (p.value, p.low, p.high) if v is not None and not math.isnan(v)]


def plot(frame: pd.DataFrame, path: Path | str, kind: str | None = None, baseline: str = "") -> None:
    """Draw one measure of the frame, against tokens or the image's size, into a file.

    Args:
        kind: the measure to draw; may be left out where the frame holds only one.
        baseline: label, attention or model that the second panel of latency compares with; empty: as for tables.
    Raises:
        UsageError: another suffix than .png or .svg, no such measure, nothing to draw, or too many panels.
        ResultsError: the file cannot be written.
    """
    path = check_path(path)
    sheet = _choose(sheets(frame, baseline), kind)
    with _drawing.settings():
        _drawing.write(draw(sheet), path)


def _choose(found: Sequence[Sheet], kind: str | None) -> Sheet:
    names = list(dict.fromkeys(sheet.measure for sheet in found))
    if kind is None and len(names) > 1:
        raise UsageError(f"These records hold several measures ({', '.join(names)}): choose one to plot.")
    fitting = [sheet for sheet in found if kind in (None, sheet.measure)]
    if len(fitting) > 1:
        raise UsageError("These records hold both attentions and whole models: choose some with --attn or --model.")
    if fitting:
        return fitting[0]
    raise UsageError(f"No records of '{kind}' to plot. There are: {', '.join(names)}.")


def _panels(sheet: Sheet, bars: bool) -> list[_Panel]:
    """A panel for each combination of what varies and each quantity; for a time, its speed-ups beside it."""
    quantities = _drawn(sheet)
    combinations = sheet.panels()
    if len(combinations) * len(quantities) > MOST_PANELS:
        names = [*(c.removeprefix("env.") for c in sheet.varying), *(["quantity"] if len(quantities) > 1 else [])]
        raise UsageError(f"{sheet.measure} would need {len(combinations) * len(quantities)} panels, and {MOST_PANELS} "
                         f"fit into a figure: keep fewer values of {' or '.join(names)}.")
    panels = []
    for differs, entries in combinations:
        where = [phrase(column, value) for column, value in differs.items()]
        for quantity in quantities:
            what = [quantity.replace("_", " ")] if len(quantities) > 1 else []
            known = sheet.known[quantity]
            if known.is_duration:
                what.append("at the median time, and at the middle half of the samples"
                            if sheet.models and known.per_image else "median, and the middle half of the samples")
            panels.append(_panel(sheet, entries, quantity, ", ".join(where + what)))
            if known.is_duration and sheet.compares and not bars:
                what = [f"speed-up over {sheet.baseline} (above 1x is faster)"]
                panels.append(_speed_ups(sheet, entries, quantity, ", ".join(where + what)))
    return panels


def _drawn(sheet: Sheet) -> list[str]:
    """The quantities that have panels; of an audit one, for models its headline, which all of them have."""
    found: dict[str, str] = {}
    for name, known in sheet.known.items():
        if known.drawn or len(sheet.known) == 1:
            found.setdefault(known.audit or name, sheet.headline.name if sheet.models and known.audit else name)
    return list(found.values()) or sheet.quantities


def _panel(sheet: Sheet, entries: list[Entry], quantity: str, title: str) -> _Panel:
    lines: dict[str, list[_Point]] = {}
    per_image = sheet.known[quantity].per_image
    ratios = dict(zip(map(id, sheet.entries), sheet.ratios(quantity), strict=True))
    for entry in sorted(entries, key=lambda e: sheet.names.index(e.name)):
        number, ratio = entry.number(quantity), ratios[id(entry)]
        if number is None:
            continue
        remark = ""
        if sheet.compares and ratio is not None and entry.name != sheet.baseline:
            faster = sheet.known[quantity].is_duration
            remark = f"{format.ratio(1 / ratio if faster else ratio)} {'vs' if faster else 'of'} {sheet.baseline}"
        values, _ = _shown(sheet, entry, number, per_image=per_image)
        lines.setdefault(entry.name, []).append(_Point(entry.tokens, *values, number.status, remark))
    unit = next((_shown(sheet, e, number, per_image=per_image)[1] for e in entries
                 if (number := e.number(quantity))), "1")
    return _Panel(title, unit, lines)


def _shown(sheet: Sheet, entry: Entry, number: Number, *,
           per_image: bool) -> tuple[tuple[float | None, float, float], str]:
    """Value, low and high as they are drawn, with their unit: of models, images a second and GMAC an image."""
    value, low, high = number.value, number.q1, number.q3
    if not sheet.models or not per_image or number.unit not in _PER_IMAGE:
        return (value, low, high), number.unit
    if number.unit == "flop":
        one = 2e9 * entry.batch
        return (None if value is None else value / one, low / one, high / one), "GMAC"
    return (entry.batch / value if value else None, entry.batch / high if high else high,
            entry.batch / low if low else low), "image/s"


def _speed_ups(sheet: Sheet, entries: list[Entry], quantity: str, title: str) -> _Panel:
    lines: dict[str, list[_Point]] = {}
    ratios = dict(zip(map(id, sheet.entries), sheet.ratios(quantity), strict=True))
    for entry in sorted(entries, key=lambda e: sheet.names.index(e.name)):
        if ratio := ratios[id(entry)]:
            lines.setdefault(entry.name, []).append(_Point(entry.tokens, 1 / ratio))
    return _Panel(title, "x", lines)


def draw(sheet: Sheet) -> Figure:
    """The figure of a sheet, to be made and written under `_drawing.settings`.

    Raises:
        UsageError: nothing to draw, or too many panels.
    """
    from matplotlib.figure import Figure

    bars = all(len({e.tokens for e in entries}) == 1 for _, entries in sheet.panels())
    panels = _panels(sheet, bars)
    if not any(panel.values() for panel in panels):
        raise UsageError(f"No record of {sheet.measure} has a value to plot.")
    styles = _drawing.styles(sheet.names)
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    height = 0.7 + 0.34 * len(sheet.names) if bars else 3.7
    figure = Figure(figsize=(5.6 * columns + 1.0, height * rows + 1.0), dpi=120, layout="constrained")
    _drawing.write_head(figure, _title(sheet), [*sheet.captions(), sheet.warning])
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        axes.set_title(panel.title, loc="left", fontsize="medium")
        if bars:
            _draw_bars(axes, panel, styles)
        else:
            _scale_axes(axes, panel, panels, {e.tokens: e.grid for e in sheet.entries} if sheet.models else {})
            _draw_lines(axes, panel, styles, f"panel{number}")
    for axes in figure.axes[len(panels):]:
        axes.remove()
    if not bars:
        figure.draw_without_rendering()  # the height of the axes decides how far labels are moved apart
        for axes, panel in zip(figure.axes, panels, strict=True):
            _name_lines(axes, panel, styles)
    return figure


def _title(sheet: Sheet) -> str:
    known = sheet.headline
    per_image = _PER_IMAGE.get(known.unit) if sheet.models and known.per_image else None
    return per_image or known.title or sheet.measure


def _scale_axes(axes: Axes, panel: _Panel, panels: Sequence[_Panel], images: dict[int, str]) -> None:
    """Logarithmic axes with the same limits in all panels of one unit, and room for words at the top.

    Args:
        images: what images of so many pixels are called; empty where the axis is of tokens.
    """
    from matplotlib.ticker import NullFormatter

    tokens = sorted({p.tokens for other in panels for line in other.lines.values() for p in line})
    axes.set_xscale("log", base=2)
    axes.set_xlim(tokens[0] / 1.15, tokens[-1] * 1.15)
    ticks = _drawing.spread(tokens)
    axes.set_xticks(ticks, [images.get(int(t), format.tokens(t)) for t in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlabel("image, by its number of pixels" if images else "tokens")
    values = [value for other in panels if other.unit == panel.unit for value in other.values()]
    _drawing.scale_values(axes, values, lambda value: _tick(value, panel.unit), base=2 if panel.unit == "B" else 10)


def _tick(value: float, unit: str) -> str:
    return format.tick(value, "1") + "x" if unit == "x" else format.tick(value, unit)


def _draw_lines(axes: Axes, panel: _Panel, styles: dict[str, Style], group: str) -> None:
    """One line, band and set of markers for each subject. Their ids in an SVG are panel0-line0, panel0-band0, ..."""
    if panel.unit == "x":
        axes.axhline(1.0, color=_drawing.GREY, linewidth=1.0)
    words: list[float] = []
    for number, (name, points) in enumerate(panel.lines.items()):
        style = styles[name]
        x = [p.tokens for p in points]
        y = [math.nan if p.value is None else p.value for p in points]
        axes.plot(x, y, color=style.colour, linestyle=style.dash, marker=style.marker, markersize=5, linewidth=1.5,
                  gid=f"{group}-line{number}")
        if any(p.high > p.low for p in points):
            axes.fill_between(x, [p.low for p in points], [p.high for p in points], color=style.colour, alpha=0.22,
                              linewidth=0, gid=f"{group}-band{number}")
        started = False
        for one, other in pairwise(points):
            started = started or one.value is not None
            if one.value is not None and other.value is None:
                _drawing.write_word(axes, other.tokens, other.word, (one.tokens, one.value), style, words)
            elif not started and other.value is not None:
                _drawing.write_word(axes, one.tokens, one.word, (other.tokens, other.value), style, words)


def _name_lines(axes: Axes, panel: _Panel, styles: dict[str, Style]) -> None:
    """Names at the ends of the lines; a line without any value has the word that says why behind its name."""
    ends = {name: next(((float(p.tokens), p.value) for p in reversed(points) if p.value is not None), None)
            for name, points in panel.lines.items()}
    _drawing.name_lines(axes, ends, {name: points[0].word for name, points in panel.lines.items()}, styles)


def _draw_bars(axes: Axes, panel: _Panel, styles: dict[str, Style]) -> None:
    """One bar for each subject, the first at the top, with its value written behind it."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    longest = max(panel.values(), default=1.0) or 1.0
    for row, (name, points) in enumerate(panel.lines.items()):
        point, style = points[-1], styles[name]
        end = 0.0
        if point.value is not None:
            axes.barh(row, point.value, height=0.62, color=style.colour, alpha=0.75, linewidth=0)
            end = max(point.value, point.high if point.high > point.low else 0.0)
            if point.high > point.low:
                axes.plot([point.low, point.high], [row, row], color="#000000", linewidth=1.2, marker="|", markersize=6)
        text = point.word if point.value is None else f"{format.quantity(point.value, panel.unit)}   {point.remark}"
        axes.text(end + longest * 0.015, row, text.rstrip(), va="center", fontsize=_drawing.SMALL + 0.5)
    axes.set_yticks(range(len(panel.lines)),
                    ["\n".join(format.wrap(name, _drawing.LABEL_WIDTH)) for name in panel.lines])
    axes.set_ylim(len(panel.lines) - 0.4, -0.6)
    axes.set_xlim(min(0.0, *panel.values(), 0.0), longest * 1.35)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, panel.unit)))
    axes.tick_params(axis="y", length=0)
