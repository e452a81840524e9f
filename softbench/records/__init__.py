"""Records: one row is one number, in SI units, with its raw samples and the machine it came from.

On disk a record is one line of JSON. Lines are only ever appended, under a lock, as soon as a case or a group of
interleaved cases is done, so that a crash loses nothing that is done, two runs may share a file, and a run resumes by
identity. Nothing here needs torch; only `to_frame`
and `load` need pandas.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softbench import files
from softbench.errors import ResultsError
from softbench.records import plausible

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
_BEGIN = b'{"measure": "'  # of every line that is written here
UNITS = ("s", "B", "flop", "1", "image/s", "B/s", "flop/s")
STATUSES = ("ok", "oom", "unsupported", "timeout", "failed", "diverged", "not_run", "inconclusive")
WHOLE_TASK = "whole_task"  # in `detail`: this record stands for a task of a study that gave nothing else
UNFINISHED = "unfinished"  # in `detail`: the budget ended this task of a study, and a resumed run begins it anew
_NUMBER = ("value", "unit", "samples", "status", "note", "detail")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk answers
# Records may stand beside each other only where these agree.
COMPARABLE = ("machine", "threads", "malloc", "denormals", "tf32", "torch", "cuda")
_ORIGIN = ("label", "environment", "started", "schema")


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number, in four groups of fields.

    Number: `measure quantity value unit samples status note detail`. `value` is the summary (the median, for
        samples); where it is None, the status says why. `detail` is how it was taken (calls per sample,
        share of the CPU that other processes had, ...), never a second result.
    Subject: `attention options model impl mode`; `impl` is resolved, never "auto"; `options` are complete. Where a
        whole model is measured, `model` is its arch (`soft-tiny`, `timm:resnet18`), `options` are those given with it,
        and `attention` is the one inside, empty for models of timm, as `impl` is.
    Point: `batch heads rows cols head_dim dtype device seed coords`; `coords` holds further coordinates by name. Of a
        model, `rows` and `cols` are those of the image in pixels, `heads` and `head_dim` 0, and `coords["part"]` is
        "whole" or a stage.
    Origin: `label environment started schema`; `label` is the subject as the command named it. A number that is quoted,
        not measured, has an empty environment.
    """

    measure: str
    quantity: str
    value: float | None
    unit: str
    samples: list[float]
    status: str
    note: str
    detail: dict[str, Any]

    attention: str
    options: dict[str, Any]
    model: str
    impl: str
    mode: str

    batch: int
    heads: int
    rows: int
    cols: int
    head_dim: int
    dtype: str
    device: str
    seed: int
    coords: dict[str, Any]

    label: str
    environment: dict[str, Any]
    started: str
    schema: int = SCHEMA

    def identity(self) -> str:
        """Everything but the number and its origin: records of one identity measure the same thing."""
        return json.dumps({n: getattr(self, n) for n in _FIELDS if n not in _NUMBER + _ORIGIN}, sort_keys=True)

    def to_json(self) -> str:
        """One line of JSON. JSON has no NaN: a number that does not exist is null, and the status says why."""
        return json.dumps({n: getattr(self, n) for n in _FIELDS}, allow_nan=False)


_FIELDS = {f.name: f.type for f in fields(Record)}
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float | None": (int, float, type(None)), "list[float]": (list,),
    "dict[str, Any]": (dict,),
}


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
    """Whether a file holds records, or nothing yet: it is empty, or its first writer was cut off within a line."""
    text = files.read_text(path)
    if not text.strip() or (b"\n" not in text and _BEGIN.startswith(text[: len(_BEGIN)])):
        return True
    return any(map(_is_record, text.split(b"\n")))


def _is_record(line: bytes) -> bool:
    try:
        _from_json(line)
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
            records.append(_from_json(line))
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
    found: dict[Path, None] = {}
    for pattern in map(str, patterns):
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        if not matches:
            raise ResultsError(f"No result file '{pattern}'. Record one with `softbench latency --out FILE`.")
        found.update(dict.fromkeys(map(Path, matches)))
    return list(found)


def latest(records: Iterable[Record]) -> list[Record]:
    """The last record of each identity on each comparable environment, in order of first appearance.

    Where a task of a study failed as a whole and gave numbers at another time, only the last outcome counts.
    """
    def where(record: Record) -> tuple[str, ...]:
        return tuple(str(record.environment.get(name)) for name in COMPARABLE)

    def task(record: Record) -> tuple[Any, ...]:
        return record.measure, record.coords.get("task"), *where(record)

    found = list(records)
    failed = {task(record): WHOLE_TASK in record.detail for record in found}  # the last one of a task decides
    return list({(record.identity(), *where(record)): record for record in found
                 if "task" not in record.coords or failed[task(record)] == (WHOLE_TASK in record.detail)}.values())


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """A frame with one row a record: its fields, `tokens`, quartiles `q1` and `q3` of the samples (SI units), the
    entries of `coords` as columns of their own, and the environment's as `env.<key>`."""
    import pandas as pd

    rows = []
    for record in records:
        row = {name: getattr(record, name) for name in _FIELDS if name not in ("coords", "environment")}
        row["tokens"] = record.rows * record.cols
        row["q1"], row["q3"] = quartiles(record.samples)
        row |= record.coords | {f"env.{key}": value for key, value in record.environment.items()}
        rows.append(row)
    frame = pd.DataFrame(rows)
    return frame.astype({"value": float}) if rows else frame


def load(*paths: Path | str) -> pd.DataFrame:
    """`softbench.load("results/x.jsonl")`: the latest record of each identity in these files, as a frame.

    Paths may be globs. Lines that are not records are left out with a warning.

    Raises:
        ResultsError: no such file, or one that holds no record.
    """
    import warnings

    records = []
    for path in expand(paths):
        found, problems = read(path)
        records += found
        for problem in problems:
            warnings.warn(problem, stacklevel=2)
    return to_frame(latest(records))


def finite(entry: Any) -> Any:
    """The entry with None for each number that JSON cannot hold; lists and tuples are walked."""
    if isinstance(entry, float):
        return entry if math.isfinite(entry) else None
    return [finite(item) for item in entry] if isinstance(entry, list | tuple) else entry


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the middle two."""
    return _quantile(samples, 0.5)


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """First and third quartile by linear interpolation; NaN where there are no samples."""
    return _quantile(samples, 0.25), _quantile(samples, 0.75)


def _quantile(samples: Sequence[float], share: float) -> float:
    if not samples:
        return math.nan
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:  # also where both are infinite
        return ordered[low]
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def _from_json(line: bytes) -> Record:
    """A record from one line. Raises ValueError with a short reason."""
    try:
        data = json.loads(line, parse_constant=_number, parse_float=_number, parse_int=_whole)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(data, dict) or "schema" not in data:
        raise ValueError("JSON without a schema number")
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']}, this softbench reads {SCHEMA}: install the version that wrote it")
    missing = [name for name in _FIELDS if name not in data]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    for name, kind in _FIELDS.items():
        value = data[name]
        if not isinstance(value, _TYPES[str(kind)]) or isinstance(value, bool):
            raise ValueError(f"{name} is {type(value).__name__}, not {kind}")
    if data["status"] not in STATUSES:
        raise ValueError(f"unknown status '{data['status']}'")
    if data["value"] is None and data["status"] == "ok":
        raise ValueError("the status is ok, yet there is no value")
    if data["unit"] not in UNITS:
        raise ValueError(f"unknown unit '{data['unit']}'")
    if not all(type(sample) in (int, float) for sample in data["samples"]):
        raise ValueError("samples are not numbers")
    plausible.check(data, _FIELDS)
    return Record(**{name: data[name] for name in _FIELDS})


def _number(text: str) -> float:
    """JSON knows no NaN and no infinity, yet json.loads takes them, and 1e999 too."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _whole(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"{text[:20]}... is beyond 64 bits")
    return int(text)
