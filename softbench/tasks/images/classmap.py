"""Class maps: a file that gives the classes of data their labels, a name a line, or a name and its label a line.

Lines count from 0, and blank ones not at all. A file whose lines all end in a whole number has names and labels, unless
such a line is itself the name of a class. A .pkl file is a dict of names and labels, as timm has it; it names no code.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NoReturn

from softbench import files
from softbench.errors import UsageError, hint

_LABELLED = re.compile(r"(.+?)[\s,;:]+(\d+)")


def read(path: Path, classes: Collection[str] = ()) -> dict[str, int]:
    """The labels that a file gives, where `classes` are the names that the data have, as far as they say.

    Raises:
        UsageError: it cannot be read, gives a name or a label twice, or lacks one of the classes.
    """
    try:
        files.check_regular(path)
    except OSError as error:
        raise UsageError(f"--class-map: cannot read '{path}': {error.strerror}.") from error
    pairs = _pickled(path) if path.suffix.lower() == ".pkl" else _pairs(_lines(path), classes)
    labels: dict[str, int] = {}
    names: dict[int, str] = {}
    for name, label in pairs:
        if name in labels:
            raise UsageError(f"The class map {path} names '{name}' twice: leave one out.")
        if (other := names.setdefault(label, name)) != name:
            raise UsageError(f"The class map {path} gives '{other}' and '{name}' the same label, {label}.")
        labels[name] = label
    if not labels:
        raise UsageError(f"The class map {path} is empty: it needs a line for each class.")
    if missing := [name for name in classes if name not in labels]:
        more = f" and {len(missing) - 1} other folders" if len(missing) > 1 else ""
        raise UsageError(f"The class map {path} has no line for the folder '{missing[0]}'{more}."
                         f" {hint(missing[0], labels, 'It needs a line for each class.')}")
    return labels


def ordered(labels: Mapping[str, int], count: int) -> list[str]:
    """The names of so many labels, in their order; "" where a label has none."""
    names = {label: name for name, label in labels.items()}
    return [names.get(label, "") for label in range(count)]


def _lines(path: Path) -> list[str]:
    try:
        text = files.read_text(path).decode()
    except UnicodeError as error:
        raise UsageError(f"The class map {path} is not text in UTF-8: save it as that.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _pairs(lines: list[str], classes: Collection[str]) -> list[tuple[str, int]]:
    matched = [_LABELLED.fullmatch(line) for line in lines]
    if all(matched) and not set(lines) & set(classes):
        return [(match[1], int(match[2])) for match in matched if match]
    return [(line, number) for number, line in enumerate(lines)]


class _Plain(pickle.Unpickler):
    """Reads dicts, text and numbers; pickle would run whatever a file names, and so do older versions of timm."""

    def find_class(self, module: str, name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and a class map names no code")


def _pickled(path: Path) -> list[tuple[str, int]]:
    try:
        pairs = list(_Plain(io.BytesIO(path.read_bytes())).load().items())
    except Exception as error:  # a damaged file may raise anything
        raise UsageError(f"Cannot read the class map {path}: {error}.") from error
    if not all(isinstance(name, str) and isinstance(label, int) and label >= 0 for name, label in pairs):
        raise UsageError(f"The class map {path} holds something else than names and labels from 0 on.")
    return pairs
