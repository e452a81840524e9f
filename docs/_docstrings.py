"""For the site: docstrings as griffe reads them, which wants a blank line before a section, and examples in one."""

import re

from griffe import Extension, Object

SECTION = re.compile(r"(?<!\n)\n( *(?:Args|Attributes|Returns|Yields|Raises):)")
EXAMPLE = re.compile(r"\n\n((?: *>>> .*\n?)+)")


def sections(text: str) -> str:
    """The docstring with its sections told apart."""
    examples = EXAMPLE.sub(lambda lines: "\n\nExamples:\n" + re.sub("^", "    ", lines[1], flags=re.M), text)
    return SECTION.sub(r"\n\n\1", examples)


class Sections(Extension):
    """Applies `sections` to each docstring."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = sections(obj.docstring.value)
