"""Pictures of the page: a figure cut into its panels, each an SVG by itself whose colours follow the page's.

The figures are those of `softbench plot`. Cut apart, their panels stand side by side on a wide screen and below each
other on a phone, in letters that can be read on both. The title and the captions of a figure become text of the page,
and so do the names in its legend.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree as xml

from softbench.reports import format
from softbench.reports.figures import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

# Colours that differ between light and dark pages: what a figure says -> the class that style.css paints.
CLASSES: Mapping[str, str] = {
    **{colour.lower(): f"c{number}" for number, colour in enumerate(drawing.COLOURS)},
    drawing.GREY: "grey", "#999999": "grey", "#444444": "grey", drawing.PALE: "pale", "#cccccc": "pale",
    "#ffffff": "paper",
}
_POINTS = 72.0  # in an inch
_PIXELS = 1.22  # of the page, for each point of a figure: its letters get about the size of a caption
_MARGIN, _ROOM = 3.0, 5.0  # points around a panel, and around a sample of the legend
_KEPT = frozenset((
    "fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linejoin", "stroke-linecap",
    "stroke-miterlimit", "opacity", "fill-opacity", "stroke-opacity", "text-anchor", "font-size", "font-weight"))
_NUMBER = re.compile(r"-?\d+\.\d+")


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `svg` is markup that is safe to put into a page; `words` says what it shows."""

    svg: str
    words: str


@dataclass(frozen=True)
class Picture:
    """A figure: its panels, how many of them stand side by side where there is room, and the entries of its legend,
    each as a small drawing and a name."""

    title: str
    captions: list[str]
    panels: list[Panel]
    columns: int
    legend: list[tuple[str, str]]


def cut(figure: Figure, name: str) -> Picture:
    """The figure as a picture of the page. To be called under `drawing.settings`.

    Args:
        name: unique in the page; ids begin with it.
    """
    title, captions = (text.get_label() for text in figure.texts)
    for text in figure.texts:
        text.set_visible(False)
    _complete(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    keys = [(handle, text.get_text()) for legend in figure.legends
            for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True) if handle is not None]
    for number, (handle, _) in enumerate(keys):
        handle.set_gid(f"key{number}")
    for number, axes in enumerate(figure.axes):
        axes.set_gid(f"axes{number}")
        for place, text in enumerate(text for text in axes.texts if text.get_label() == drawing.ON_COLOUR):
            text.set_gid(f"cell{number}-{place}")
    root = _parse(figure)
    height = figure.get_size_inches()[1] * _POINTS
    groups = {group.get("id", ""): group for group in root.iter("g")}
    shared = [child for child in root if child.tag == "defs"]  # of clips, which all panels may use
    _rename(root, name)
    _paint(root, f"{name}-cell")
    panels: list[Panel] = []
    for number, axes in enumerate(figure.axes):
        box = axes.get_tightbbox()
        if box is not None:
            words = ". ".join(filter(None, (str(title).rstrip("."), _words(axes))))
            panels.append(_panel(groups[f"axes{number}"], shared if not panels else [], _in_points(box, figure),
                                 height, words))
    legend = [(_key(groups[f"key{number}"]), format.text(label)) for number, (_, label) in enumerate(keys)]
    columns = {spec.get_gridspec().ncols for axes in figure.axes if (spec := axes.get_subplotspec())}
    return Picture(str(title), str(captions).splitlines(), panels, max(columns, default=1), legend)


def _complete(figure: Figure) -> None:
    """Give each panel what only the first of its row has: the name of its axis of values, and names on it."""
    for axes in figure.axes:
        place = axes.get_subplotspec()
        if place is None:
            continue
        first = next(a for a in figure.axes if (p := a.get_subplotspec()) and p.rowspan == place.rowspan)
        if not axes.get_ylabel():
            axes.set_ylabel(first.get_ylabel())
        names, own = ([label.get_text() for label in a.get_yticklabels()] for a in (first, axes))
        if any(names) and not any(own):
            axes.set_yticks(first.get_yticks(), names)


def _parse(figure: Figure) -> xml.Element:
    """The figure's SVG without namespaces, metadata, comments and styles in CSS, which a page's policy forbids."""
    file = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(file, format="svg", metadata={"Date": None})
    root = xml.fromstring(file.getvalue())
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        for key in list(node.attrib):
            if "}" in key:
                node.set(key.rpartition("}")[2], node.attrib.pop(key))
        for key, value in _declarations(node.attrib.pop("style", "")):
            node.set(key, value)
        for key in ("d", "transform", "x", "y", "points"):
            if key in node.attrib:
                node.set(key, _NUMBER.sub(_shorter, " ".join(node.attrib[key].split())))
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag in ("metadata", "style")]:
            parent.remove(child)
    return root


def _shorter(number: re.Match[str]) -> str:
    text = f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    """CSS declarations as attributes of SVG; of a font, its size and weight."""
    for declaration in filter(None, map(str.strip, style.split(";"))):
        key, _, value = declaration.partition(":")
        key, value = key.strip(), value.strip()
        if key == "font":
            size = re.search(r"[\d.]+px", value)
            yield from (("font-weight", "bold"),) if re.match(r"bold|[6-9]00", value) else ()
            yield from (("font-size", size[0]),) if size else ()
        elif key in _KEPT:
            yield key, value


def _rename(root: xml.Element, name: str) -> None:
    """Make ids unique in the page, and with them what refers to them."""
    for node in root.iter():
        for key, value in node.attrib.items():
            if key == "id":
                node.set(key, f"{name}-{value}")
            elif key == "href" and value.startswith("#"):
                node.set(key, f"#{name}-{value[1:]}")
            elif value.startswith("url(#"):
                node.set(key, f"url(#{name}-{value[5:]}")


def _paint(node: xml.Element, cells: str, fixed: bool = False) -> None:
    """Turn colours that follow the page into classes; what is written on a coloured cell keeps its own.

    Args:
        cells: what the ids of such writing begin with.
    """
    classes = []
    if node.get("id", "").startswith(cells):
        fixed, classes = True, ["on-colour"]
    for key in ("fill", "stroke"):
        colour = CLASSES.get(node.get(key, "").lower())
        if colour and not fixed:
            del node.attrib[key]
            classes.append(f"{key}-{colour}")
    if classes:
        node.set("class", " ".join(classes))
    for child in node:
        _paint(child, cells, fixed)


def _panel(group: xml.Element, shared: list[xml.Element], box: Bbox, height: float, words: str) -> Panel:
    left, top = box.x0 - _MARGIN, height - box.y1 - _MARGIN
    svg = _svg((left, top, box.width + 2 * _MARGIN, box.height + 2 * _MARGIN), [group, *shared])
    svg.attrib.update({"role": "img", "aria-label": words})
    return Panel(xml.tostring(svg, encoding="unicode"), words)


def _key(group: xml.Element) -> str:
    """The sample of a legend, cut out around its line or its marker."""
    places = [tuple(map(float, place)) for path in group.findall("path")
              for place in re.findall(r"[ML] (\S+) (\S+)", path.get("d", ""))]
    places += [(float(use.get("x", "0")), float(use.get("y", "0"))) for use in group.iter("use")]
    (left, right), (top, bottom) = ((min(side), max(side)) for side in zip(*places, strict=True))
    svg = _svg((left - _ROOM, top - _ROOM, right - left + 2 * _ROOM, bottom - top + 2 * _ROOM), [group])
    svg.set("aria-hidden", "true")
    return xml.tostring(svg, encoding="unicode")


def _svg(box: tuple[float, float, float, float], content: list[xml.Element]) -> xml.Element:
    """A drawing of what lies within the box: left, top, width and height in points."""
    root = xml.Element("svg", {"viewBox": " ".join(f"{side:.2f}" for side in box),
                               "width": str(round(box[2] * _PIXELS)), "height": str(round(box[3] * _PIXELS))})
    root.extend(content)
    return root


def _in_points(box: Bbox, figure: Figure) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox(box.get_points() * _POINTS / figure.dpi)


def _words(axes: Axes) -> str:
    """Describe a panel in a sentence for those who do not see it."""
    x, y = format.text(axes.get_xlabel()), format.text(axes.get_ylabel())
    sides = f"{y} against {x}".strip() if x else y
    return ". ".join(filter(None, (format.text(axes.get_title("left")), sides)))
