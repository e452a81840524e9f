"""Files that users name: read only where they are files, written whole or not at all, never over what is read."""

from __future__ import annotations

import codecs
import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from softbench.errors import UsageError

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # UTF-32's begin as UTF-16's do


def read(path: Path | str) -> bytes:
    """All bytes of a regular file. Raises OSError, also for a device or a pipe, which may never end."""
    check_regular(path)
    return Path(path).read_bytes()


def read_text(path: Path | str) -> bytes:
    """A text file as UTF-8 without a byte order mark, whatever its own mark says that it is written in."""
    raw = read(path)
    coding = marked(raw)
    if coding == "utf-8":
        return raw.removeprefix(codecs.BOM_UTF8)
    return raw.decode(coding, "replace").encode() if coding else raw


def marked(raw: bytes) -> str:
    """The encoding that a byte order mark at the beginning names; empty where there is none."""
    return next((coding for mark, coding in _MARKS if raw.startswith(mark)), "")


def check_regular(path: Path | str) -> None:
    """Raise OSError where there is something at this path that is no regular file, or nothing."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A new file to write into, which then takes the place of `path`: readers find the old one or the new one.

    A link stays, and what it points to is replaced. Raises OSError for a device, a pipe or a folder.
    """
    target = Path(os.path.realpath(path))
    with suppress(FileNotFoundError):
        check_regular(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield half
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)


def keep_apart(outputs: Mapping[str, Iterable[Path | str]], inputs: Iterable[Path | str] = ()) -> None:
    """Raise UsageError where a command would write over a file that it reads, or write one file twice.

    Links are followed. Names of new files that differ in nothing but case are one name, as some disks have it.

    Args:
        outputs: by the flag that names them.
        inputs: files that the command reads; those that do not exist do not matter.
    """
    taken = {_place(path): "one of the files that this command reads" for path in inputs}
    if (standard := _standard_output()) is not None:
        taken.setdefault(standard, "where standard output goes")
    for flag, paths in outputs.items():
        own = {_place(path): path for path in paths}
        for place, path in own.items():
            if place in taken:
                raise UsageError(f"{flag}: {path} is {taken[place]}. Choose another name.")
        taken |= dict.fromkeys(own, f"also the file of {flag}")


def _place(path: Path | str) -> tuple[Any, ...]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return (os.path.realpath(path).casefold(),)
    return status.st_dev, status.st_ino


def _standard_output() -> tuple[Any, ...] | None:
    """The place of the regular file that stdout is redirected to; None where it goes elsewhere."""
    try:
        status = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None
