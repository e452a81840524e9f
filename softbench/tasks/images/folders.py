"""Labelled pictures in a folder or a tar: a class is a folder at the top, whatever lies deeper inside it.

Names are in natural order, 2 before 10 and without regard to case, and those that are alike in it (a and A, 1 and 01)
in the order of their characters. So every process has the same.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from softbench import files
from softbench.errors import UsageError
from softbench.inputs import pictures

_NAMED = 5  # names in a message, at most
_ZERO = bytes(tarfile.BLOCKSIZE)


class File(NamedTuple):
    """A file, by its path below the split; inside a tar it is `size` bytes from `start` on."""

    path: str
    start: int = 0
    size: int = 0


_Found = tuple[list[File], set[str]]  # the files, and the folders, which may hold none


class Pictures:
    """A reader: `reader[index]` is an open file and its label.

    Attributes:
        classes: names of the folders at the top, in order; each has a picture.
        samples: the pictures, in order.
        class_to_idx: the label of each class, by timm's name for it; at first its place among the classes.
        labels: of the pictures.
        left_out: how many files there are of each kind that is no picture.
    """

    def __init__(self, place: Path) -> None:
        """Raises UsageError where there is no picture, one outside of all classes, or a class without any."""
        self.place, self.in_tar = place, place.is_file()
        try:
            files, folders = _in_tar(place) if self.in_tar else _in_folder(place)
        except (OSError, tarfile.TarError) as error:
            raise UsageError(f"Cannot read {place}: {getattr(error, 'strerror', None) or error}.") from error
        kinds = [pictures.left_out(file.path) for file in files]
        self.left_out = Counter(kind for kind in kinds if kind)
        self.samples = sorted((file for file, kind in zip(files, kinds, strict=True) if not kind),
                              key=lambda file: natural(file.path))
        self._check(folders)
        self.classes = sorted({_top(file.path) for file in self.samples}, key=natural)
        self.label({name: label for label, name in enumerate(self.classes)})

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        return self.open(self.samples[index]), self.labels[index]

    def open(self, file: File) -> BinaryIO:
        """One of the samples as an open file."""
        if not self.in_tar:
            files.check_regular(path := self.place / file.path)
            return path.open("rb")
        with self.place.open("rb") as tar:
            tar.seek(file.start)
            return io.BytesIO(tar.read(file.size))

    def beginning(self, file: File, most: int) -> bytes:
        """The size of one of the samples in text, and so many of its first bytes."""
        with self.open(file) as opened:
            return f"{opened.seek(0, os.SEEK_END)} ".encode() + (opened.seek(0), opened.read(most))[1]

    def filename(self, index: int) -> str:
        """The path of a picture below the split."""
        return self.samples[index].path

    def label(self, labels: Mapping[str, int]) -> None:
        """Give the classes these labels, which must have one for each."""
        self.class_to_idx = {name: labels[name] for name in self.classes}
        self.labels = [self.class_to_idx[_top(file.path)] for file in self.samples]

    def _check(self, folders: set[str]) -> None:
        left = f" (left out: {counted(self.left_out)})" if self.left_out else ""
        if not self.samples:
            raise UsageError(f"{self.place} holds no images{left}. It needs a folder of images for each class.")
        if outside := next((file.path for file in self.samples if "/" not in file.path), ""):
            raise UsageError(f"{self.place / outside} lies in no class folder: move it into one, or remove it.")
        empty = {_top(path) for path in folders if path[0] != "."} - {_top(file.path) for file in self.samples}
        if empty:
            names = some(sorted(empty, key=natural))
            raise UsageError(f"{self.place} has folders without a single image: {names}{left}. Fill them, or remove"
                             " them.")


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that puts names in natural order; no two names have the same."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def some(names: Sequence[str]) -> str:
    """The first few of these names, and how many more there are."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def counted(kinds: Mapping[str, int]) -> str:
    """Kinds with their numbers, as in "8 .txt, 1 hidden"."""
    return ", ".join(f"{kinds[kind]:,} {kind}" for kind in sorted(kinds))


def _top(path: str) -> str:
    return path.partition("/")[0]


def _in_folder(place: Path) -> _Found:
    def refuse(error: OSError) -> None:
        raise error

    files: list[File] = []
    folders: set[str] = set()
    known: dict[str, str] = {}
    for above, inside, names in os.walk(place, onerror=refuse, followlinks=True):
        if (other := known.setdefault(os.path.realpath(above), above)) != above:
            raise UsageError(f"{above} and {other} are the same folder, by a link: its images would count twice."
                             " Remove the link.")
        path = os.path.relpath(above, place)
        below = "" if path == "." else f"{path}/"
        files += [File(below + name) for name in names]
        files += [File(below + name) for name in inside if name.startswith(".")]  # counted as one each
        inside[:] = [name for name in inside if not name.startswith(".")]
        folders |= {below + name for name in inside}
    return files, folders


def _in_tar(place: Path) -> _Found:
    """Without the folders at the top that all pictures share: a tar holds the folder that was packed."""
    with tarfile.open(place, "r:") as tar:
        entries = [(re.sub(r"/\.?(?=/|$)", "", f"/{path}")[1:], start, size) for path, start, size in _members(tar)]
    shared = _shared([path for path, _, size in entries if size >= 0 and not pictures.left_out(path)])
    entries = [(path[len(shared):], start, size) for path, start, size in entries if path.startswith(shared)]
    files = {entry[0]: File(*entry) for entry in entries if entry[0] and entry[2] >= 0}  # the later of two of one path
    return list(files.values()), {path for path, _, size in entries if path and size < 0}


def _members(tar: tarfile.TarFile, above: str = "", start: int = 0) -> Iterator[tuple[str, int, int]]:
    """Path, first byte and size of what is in a tar, and in the tars inside it, each a folder of its name.

    The size of a folder is -1. What has no bytes of its own is a file of the kind .link.
    """
    while (member := tar.next()) is not None:
        path = above + member.name
        if member.isdir():
            yield path, 0, -1
        elif not member.isfile() or member.issparse():
            yield f"{path}.link", 0, 0
        elif path.lower().endswith(".tar"):
            with tarfile.open(fileobj=tar.extractfile(member), mode="r:") as inner:
                yield from _members(inner, f"{path[:-4]}/", start + member.offset_data)
        else:
            yield path, start + member.offset_data, member.size
        tar.members.clear()  # type: ignore[attr-defined]  # or a million of them stay in memory
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) not in (b"", _ZERO):
        raise tarfile.ReadError("it is damaged, or ends in the middle of a file")


def _shared(paths: Iterable[str]) -> str:
    """The folders that all these paths begin with, leaving each a class."""
    above = {"/".join(["", *path.split("/")[:-2]]) for path in paths}
    shared = os.path.commonpath(above)[1:] if above and all(above) else ""
    return f"{shared}/" if shared else ""
