"""Reading a report back: its elements as a browser's parser would see them, its tables, and the records inside."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from softbench import records
from softbench.records import Record

VOID = {"meta", "input", "br", "img", "link"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> Iterator[Element]:
        """Elements below this one, in order, of that tag and with these attributes."""
        for child in self.children:
            if isinstance(child, Element):
                if tag in ("", child.tag) and attributes.items() <= child.attributes.items():
                    yield child
                yield from child.all(tag, **attributes)

    def one(self, tag: str = "", **attributes: str) -> Element:
        return next(self.all(tag, **attributes))

    @property
    def text(self) -> str:
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return " ".join("".join(parts).split())


class Page(HTMLParser):
    """The parsed page; `tag` and `handle_*` are those of the standard library's parser."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.root = self.here = Element("", {})
        self.feed(source)
        self.close()
        assert self.here is self.root, f"<{self.here.tag}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs}, self.here)
        assert len(attrs) == len(element.attributes), f"an attribute of <{tag}> stands twice"
        self.here.children.append(element)
        if tag not in VOID:
            self.here = element

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.here.children.append(Element(tag, {key: value or "" for key, value in attrs}, self.here))

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, f"</{tag}> ends <{self.here.tag}>"
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.children.append(data)

    def section(self, title: str) -> Element:
        return next(s for s in self.root.all("section") if s.one("h2").text == title)

    def records(self, folder: Path) -> list[Record]:
        """What the download holds, read as a result file."""
        address = self.root.one("a", download="softbench-records.jsonl.gz").attributes["href"]
        kind, _, data = address.partition(",")
        assert kind == "data:application/gzip;base64"
        path = folder / "unpacked.jsonl"
        path.write_bytes(gzip.decompress(base64.b64decode(data)))
        found, problems = records.read(path)
        assert problems == []
        return found


def cells(table: Element) -> list[list[str]]:
    """Header and rows of a table as text; headings above rows have one cell."""
    return [[cell.text for cell in row.all() if cell.tag in ("th", "td")] for row in table.all("tr")]


def outline(page: Page) -> str:
    """The page in lines: headings, captions, pictures and tables with their first row and its keys."""
    lines = []
    for element in page.root.all():
        here = element.attributes
        if element.tag in ("h1", "h2", "h3", "figcaption"):
            lines.append(f"{element.tag}: {element.text}")
        elif element.tag == "p":
            lines.append(f"p.{here.get('class', '')}: {element.text}")
        elif element.tag == "svg" and here.get("role"):
            lines.append(f"  picture: {here['aria-label']}")
        elif element.tag == "ul" and here.get("class") in ("legend", "notes"):
            lines.append(f"  {here['class']}: {' | '.join(item.text for item in element.all('li'))}")
        elif element.tag == "table":
            rows = list(element.all("tr"))
            lines.append(f"  table of {len(rows) - 1} rows: {' | '.join(cells(element)[0])}")
            first = next(row for row in rows[1:] if row.attributes.get("class") != "heading")
            lines.append("    " + " | ".join(f"{c.text} <{c.attributes.get('data-key', '')}>" for c in first.all("td")))
        elif element.tag == "select":
            lines.append(f"  select {here['data-facet']}: {', '.join(o.text for o in element.all('option'))}")
    return "\n".join(lines) + "\n"
