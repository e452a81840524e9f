"""Drawing, as all figures share it: the look of a subject, head lines, axes, lines with names at their ends, the file.

Every subject keeps one colour, marker and dash in all panels of a figure.
"""

from __future__ import annotations

import math
import os
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softbench import files
from softbench.errors import ResultsError, UsageError
from softbench.reports import format

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
SMALL, GREY, PALE = 8.0, "#555555", "#dddddd"
LABEL_WIDTH, LABEL_POINTS = 20, 12.5  # characters in a line of a label, and the height of that line
# Black for the first subject, then colours that stay apart for colour-blind readers (after Okabe and Ito, 2008), with
# the light ones darkened so that they carry text.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#00805F", "#B0508A", "#8A6D00", "#3A8FBF", "#6A3D9A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)))
ON_COLOUR = "on colour"  # the label of a text whose colour was chosen for the cell behind it
_WORD_WIDTH = 0.15  # of a panel's width, that a status word may take
_LARGEST = 300.0  # power of ten that an axis may reach
_SETTINGS: Any = {
    "font.family": "DejaVu Sans", "font.size": 9.5, "text.usetex": False, "text.parse_math": False,
    "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "svg.hashsalt": "softbench",
}


@dataclass(frozen=True)
class Style:
    """How the lines and points of one subject look."""

    colour: str
    marker: str
    dash: Any


@dataclass(frozen=True)
class Point:
    """One value of a line; where `y` is None, `word` says why."""

    x: float
    y: float | None
    low: float = math.nan
    high: float = math.nan
    word: str = ""


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A look for each name: eight colours and markers; where a colour comes again, marker and dash differ."""
    looks = {}
    for i, name in enumerate(names):
        again = i // len(COLOURS)
        looks[name] = Style(COLOURS[i % len(COLOURS)], MARKERS[(i + 3 * again) % len(MARKERS)],
                            DASHES[(i + again) % len(DASHES)])
    return looks


@contextmanager
def settings() -> Iterator[None]:
    """The fonts and rules under which a figure is made and written."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        for harmless in ("Glyph .* missing from", "constrained_layout not applied"):  # as where a name is very long
            warnings.filterwarnings("ignore", message=harmless, category=UserWarning)
        yield


def _matplotlib() -> Any:
    """The package, imported without what MPLBACKEND says of windows: figures are only ever written to files.

    A notebook's backend is often not installed where its kernel's children run, and the import would fail on it.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return matplotlib


def check_path(path: Path | str) -> Path:
    """The path, if a figure can have that name. Raises UsageError for another suffix than .png or .svg."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"Cannot draw '{path}': the name must end in {' or '.join(SUFFIXES)}.")
    return path


def write(figure: Figure, path: Path) -> None:
    """Render beside the target and rename, so that a reader finds the old picture or the new one, never half of it."""
    kind = path.suffix.lower().removeprefix(".")
    try:
        with files.replacing(path) as half:
            figure.savefig(half, format=kind, metadata={"Date": None} if kind == "svg" else None)
    except OSError as error:
        reason = error.strerror or error
        raise ResultsError(f"Cannot write {path}: {reason}. Choose another place for the plot.") from error


def write_head(figure: Figure, title: str, captions: Sequence[str]) -> None:
    """Title and caption lines, with the room they need taken from the panels. Their labels hold them unwrapped."""
    width, height = figure.get_size_inches()
    lines = [line for caption in captions for line in textwrap.wrap(caption, int(width * 16.5))]
    titles = textwrap.wrap(title, int(width * 11))
    figure.text(0.08 / width, 1 - 0.08 / height, "\n".join(titles), va="top", fontsize="large", fontweight="bold",
                label=title)
    below = 0.34 + 0.2 * (len(titles) - 1)
    figure.text(0.08 / width, 1 - below / height, "\n".join(lines), va="top", fontsize=SMALL, color=GREY,
                linespacing=1.35, label="\n".join(caption for caption in captions if caption))
    top = 1 - (below + 0.08 + 0.16 * len(lines)) / height
    figure.set_layout_engine("constrained", rect=(0, 0, 1, top), w_pad=0.08, h_pad=0.08)


def scale_values(axes: Axes, values: Sequence[float], tick: Callable[[float], str], *, log: bool = True,
                 base: int = 10, side: str = "y") -> None:
    """An axis that holds these values, with room at its upper end; logarithmic if they allow it."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    axis = axes.yaxis if side == "y" else axes.xaxis
    limit = axes.set_ylim if side == "y" else axes.set_xlim
    low, high = (min(values), max(values)) if values else (1.0, 1.0)
    formatter = FuncFormatter(lambda value, _: tick(value))
    axes.grid(axis="y" if side == "y" else "x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    room = 0.2 if side == "y" else 0.06
    if low <= 0 or not log:
        axis.set_major_formatter(formatter)
        limit(low - 0.04 * (high - low or 1.0), high + room * (high - low or 1.0))
        return
    (axes.set_yscale if side == "y" else axes.set_xscale)("log", base=base)
    middle = (math.log10(low) + math.log10(high)) / 2
    span = max(math.log10(high) - math.log10(low), math.log10(4.0))
    limit(*(10 ** max(-_LARGEST, min(_LARGEST, exponent))
            for exponent in (middle - 0.56 * span, middle + (0.5 + 0.8 * room) * span)))
    ends = axes.get_ylim() if side == "y" else axes.get_xlim()
    axis.set_major_locator(FixedLocator(_decades(*ends)) if base == 10 else LogLocator(base=base, numticks=9))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y" if side == "y" else "x", which="minor", length=0)


def scale_steps(axes: Axes, places: Sequence[float], name: Callable[[float], str], *, log: bool = True,
                ticks: Sequence[float] = ()) -> None:
    """An axis below the panel that holds these ascending places, with names at some of them, or of `ticks`."""
    from matplotlib.ticker import NullFormatter

    log = log and places[0] > 0
    if log:
        axes.set_xscale("log", base=2)
        axes.set_xlim(places[0] / 1.15, places[-1] * 1.15)
    ticks = spread(ticks or places, log)
    axes.set_xticks(ticks, [name(tick) for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)


def _decades(low: float, high: float) -> list[float]:
    """Three to nine round ticks of a logarithmic axis: powers of ten, or simple parts of them where it is short."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1.0,), (1.0, 2.0, 5.0), (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)):
        ticks = [part * 10.0**power for power in powers for part in parts if low <= part * 10.0**power <= high]
        if len(ticks) >= 3:
            break
    return ticks[:: math.ceil(len(ticks) / 9)]


def spread(values: Sequence[float], log: bool = True) -> list[float]:
    """Those of ascending values that get a tick: not nearer than their labels are wide."""
    place = math.log if log else float
    room = (place(values[-1]) - place(values[0])) / 7
    ticks = [values[0]]
    for value in values[1:]:
        if place(value) - place(ticks[-1]) > room:
            ticks.append(value)
    return ticks


def draw_line(axes: Axes, points: Sequence[Point], style: Style, name: tuple[str, int], taken: list[float] | None, *,
              lowest: float = -math.inf, size: float = 4, width: float = 1.4, alpha: float = 0.2,
              every: int | None = None) -> None:
    """A line with its markers, the band of its intervals, and a word at each gap in it.

    Args:
        name: the group and number of which the ids in an SVG are made.
        taken: as for `write_word`; None for no words.
        lowest: what is lower is drawn there, as zero has no place on a logarithmic axis.
        every: the step from marker to marker.
    """
    group, number = name
    x = [p.x for p in points]
    axes.plot(x, [math.nan if p.y is None else max(p.y, lowest) for p in points], color=style.colour,
              linestyle=style.dash, marker=style.marker, markersize=size, linewidth=width, markevery=every,
              gid=f"{group}-line{number}")
    if any(p.high > p.low for p in points):
        axes.fill_between(x, [max(p.low, lowest) for p in points], [p.high for p in points], color=style.colour,
                          alpha=alpha, linewidth=0, gid=f"{group}-band{number}")
    begun = False
    for one, other in pairwise(points if taken is not None else []):
        begun = begun or one.y is not None
        value, gone = (one, other) if begun else (other, one)
        if value.y is not None and gone.y is None and taken is not None:
            write_word(axes, gone.x, gone.word, (value.x, max(value.y, lowest)), style, taken)


def write_word(axes: Axes, x: float, text: str, end: tuple[float, float], style: Style, taken: list[float]) -> None:
    """A status at the top of the panel, tied by a dotted line to the nearest point of its line that has a value.

    Args:
        x: where there is no value.
        end: the point it is tied to.
        taken: where words of this panel are already, in parts of its width; this one is added.
    """
    position = float((axes.transData + axes.transAxes.inverted()).transform((x, 1.0))[0])
    level = 0.985 - 0.055 * sum(abs(position - other) < _WORD_WIDTH for other in taken)
    taken.append(position)
    axes.annotate(text, xy=end, xytext=(position, level), color=style.colour, textcoords="axes fraction",
                  fontsize=SMALL, ha="center", va="top", arrowprops={
                      "arrowstyle": "-", "color": style.colour, "linewidth": 1.0, "linestyle": ":", "shrinkB": 4})


def name_lines(axes: Axes, ends: dict[str, tuple[float, float] | None], words: dict[str, str],
               looks: dict[str, Style]) -> None:
    """Names at the right edge, level with the lines' ends as far as they do not overlap.

    The height of the axes decides how far names are moved apart: draw the figure's layout before.

    Args:
        ends: the last point of each line, None where it has none.
        words: what is then written behind the name.
    """
    to_fraction = axes.transData + axes.transAxes.inverted()
    levels = {name: float(to_fraction.transform(end)[1]) if end else 1.0 for name, end in ends.items()}
    names = sorted(levels, key=lambda name: levels[name])
    labels = {name: "\n".join(format.wrap(name + ("" if ends[name] else f" ({words[name]})"), LABEL_WIDTH))
              for name in names}
    line_height = LABEL_POINTS / 72 * axes.figure.dpi / axes.bbox.height
    heights = [line_height * (1 + labels[name].count("\n")) for name in names]
    for name, level in zip(names, apart([levels[name] for name in names], heights), strict=True):
        end, style = ends[name], looks[name]
        text: dict[str, Any] = {"color": style.colour, "va": "center", "ha": "left", "linespacing": 1.0}
        if end is None:
            axes.text(1.04, level, labels[name], transform=axes.transAxes, **text)
            continue
        axes.annotate(labels[name], xy=end, xytext=(1.04, level), annotation_clip=False,
                      textcoords="axes fraction", **text, arrowprops={
                          "arrowstyle": "-", "color": style.colour, "linewidth": 0.6, "alpha": 0.7,
                          "relpos": (0.0, 0.5), "shrinkA": 1, "shrinkB": 4})


def apart(levels: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Ascending positions in 0..1 of labels of these heights that do not overlap, each about at its level.

    Neighbours that overlap merge into a block around the mean of their levels, until no blocks overlap.
    """
    blocks: list[tuple[float, list[int]]] = []  # (centre, labels in it)

    def size(members: list[int]) -> float:
        return sum(heights[m] for m in members)

    def inside(centre: float, members: list[int]) -> float:
        return max(min(centre, 1 - size(members) / 2), size(members) / 2)

    for index, level in enumerate(levels):
        members = [index]
        centre = inside(level, members)
        while blocks and blocks[-1][0] + size(blocks[-1][1]) / 2 > centre - size(members) / 2:
            below, others = blocks.pop()
            centre = (below * len(others) + centre * len(members)) / (len(others) + len(members))
            members = others + members
            centre = inside(centre, members)
        blocks.append((centre, members))
    placed = [0.0] * len(levels)
    for centre, members in blocks:
        edge = centre - size(members) / 2
        for member in members:
            placed[member] = edge + heights[member] / 2
            edge += heights[member]
    return placed
