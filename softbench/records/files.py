"""Files of records: a record is one line of JSON, and lines are only ever appended.

They are appended under a lock as soon as a case, or a group of interleaved cases, is done, so that a crash loses
nothing that is done, two runs may share a file, and a run resumes by identity.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import stat
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from softbench import files
from softbench.errors import ResultsError
from softbench.records.record import COMPARABLE, WHOLE_TASK, Record, from_json

_BEGIN = b'{"measure": "'  # of every line that is written here
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk answers


def check_writable(path: Path | str) -> None:
    """Raise ResultsError unless `append` could write the file, and nothing but records is in it; changes nothing."""
    path = Path(path)
    try:
        try:
            os.close(_open(path, os.O_RDWR))
            _check_ours(path)
        except FileNotFoundError:
            nearest = next(folder for folder in path.absolute().parents if os.path.exists(folder))
            tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise _cannot_write(path, error) from error


def append(path: Path | str, records: Iterable[Record]) -> None:
    """Append records to a JSON Lines file, all or none, and flush them to the disk.

    Raises:
        ResultsError: the file cannot be written (no permission, disk full); nothing of this call is left in it.
    """
    lines = "".join(record.to_json() + "\n" for record in records).encode()
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            _append(handle, lines)
        finally:
            os.close(handle)
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_whole(path: Path | str, text: str) -> None:
    """Put a text in place of a file: whoever reads it finds the old one or the new one, never half of it.

    Raises:
        ResultsError: the file cannot be written; what was there is kept.
    """
    try:
        with files.replacing(path) as half:
            half.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise _cannot_write(Path(path), error) from error


def _append(handle: int, lines: bytes) -> None:
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        lines = b"\n" + lines  # a run that died left half a line: end it, so that it spoils only itself
    try:
        written = 0
        while written < len(lines):
            written += os.write(handle, lines[written:])
        os.fsync(handle)
    except BaseException:  # Ctrl-C as well
        os.ftruncate(handle, size)
        raise


def _open(path: Path, flags: int) -> int:
    """Open a regular file; OSError for a device or a pipe, which records could not be read back from."""
    handle = os.open(path, flags, 0o644)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "Not a regular file")
    return handle


def _check_ours(path: Path) -> None:
    """Raise ResultsError for a file that records would spoil: one that holds something else, or in another encoding."""
    with path.open("rb") as file:
        begin = file.read(len(_BEGIN))
    if not is_begun(path):
        raise ResultsError(f"{path} holds no softbench records, and would be spoilt by some: choose another file with"
                           " --out.")
    if files.marked(begin) not in ("", "utf-8"):
        raise ResultsError(f"{path} is written in {files.marked(begin).upper()}, and records are UTF-8: choose another"
                           " file with --out.")


def is_begun(path: Path | str) -> bool:
    """True where a file holds records, or nothing yet: it is empty, or its first writer was cut off within a line."""
    text = files.read_text(path)
    if not text.strip() or (b"\n" not in text and _BEGIN.startswith(text[: len(_BEGIN)])):
        return True
    return any(map(_is_record, text.split(b"\n")))


def _is_record(line: bytes) -> bool:
    try:
        from_json(line)
    except ValueError:
        return False
    return True


def _cannot_write(path: Path, error: OSError) -> ResultsError:
    advice = "Free space or choose" if error.errno in FULL else "Choose"
    return ResultsError(f"Cannot write {path}: {error.strerror}; what was there is kept."
                        f" {advice} another file with --out.")


def read(path: Path | str, *, begun: bool = False) -> tuple[list[Record], list[str]]:
    """All whole records of a file, and one sentence for each line that is not one.

    Args:
        begun: whether a file that holds nothing yet (see `is_begun`) gives no records instead of an error.
    Raises:
        ResultsError: the file cannot be read, is empty, or holds no record at all.
    """
    path = Path(path)
    try:
        lines = files.read_text(path).split(b"\n")
    except OSError as error:
        raise ResultsError(f"Cannot read {path}: {error.strerror}.") from error
    records, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records.append(from_json(line))
        except ValueError as error:
            torn = number == len(lines) and line.startswith(b"{")  # no newline follows: its writer was cut off
            what = "is torn (its writer was interrupted)" if torn else f"is not a record ({error})"
            problems.append(f"{path}, line {number} {what}; it is left out.")
    if not records and not (begun and is_begun(path)):
        reason = problems[0] if problems else "the file is empty."
        raise ResultsError(f"{path} holds no softbench records: {reason}")
    return records, problems


def expand(patterns: Sequence[Path | str]) -> list[Path]:
    """Files that paths and globs name, in order, each once. Raises ResultsError where a pattern names none."""
    files: dict[Path, None] = {}
    for pattern in map(str, patterns):
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        if not matches:
            raise ResultsError(f"No result file '{pattern}'. Record one with `softbench latency --out FILE`.")
        files.update(dict.fromkeys(map(Path, matches)))
    return list(files)


def latest(records: Iterable[Record]) -> list[Record]:
    """Return the last record of each identity on each comparable environment, in order of first appearance.

    Where a task of a study failed as a whole and gave numbers at another time, only the last outcome counts.
    """
    def where(record: Record) -> tuple[str, ...]:
        return tuple(str(record.environment.get(name)) for name in COMPARABLE)

    def task(record: Record) -> tuple[Any, ...]:
        return record.measure, record.coords.get("task"), *where(record)

    rows = list(records)
    failed = {task(record): WHOLE_TASK in record.detail for record in rows}  # the last one of a task decides
    return list({(record.identity(), *where(record)): record for record in rows
                 if "task" not in record.coords or failed[task(record)] == (WHOLE_TASK in record.detail)}.values())
