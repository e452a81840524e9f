"""Records: one row is one number, in SI units, with its raw samples and the machine it came from.

A measure, a study or a training gives a `Reading`; `About` and `Point` say of what, `Origin` from where. `make` puts
the four together, and is the only place that does. What does not exist is None, and is left out of the record's line:
the time of a matrix has no attention, and no heads.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from softbench.records import plausible
from softbench.stats import median

SCHEMA = 2
_READS = (1, 2)
UNITS = ("s", "B", "flop", "1", "image/s", "sample/s", "B/s", "flop/s")
STATUSES = ("ok", "oom", "unsupported", "timeout", "failed", "diverged", "not_run", "inconclusive")
WHOLE_TASK = "whole_task"  # in `detail`: this record stands for a task of a study that gave nothing else
UNFINISHED = "unfinished"  # in `detail`: the budget ended this task of a study, and a resumed run begins it anew

# Records may stand beside each other only where these entries of their environments agree.
COMPARABLE = ("machine", "threads", "malloc", "denormals", "tf32", "torch", "cuda")


@dataclass(frozen=True)
class Reading:
    """One measured quantity: its raw samples in SI units, in the order taken, and how they were taken.

    Attributes:
        value: left out, it is the median of the samples.
        note: a remark for the reader of the table, a flagged disturbance, say; where there is no value, the reason.
        detail: how it was taken (calls per sample, share of the CPU that other processes had, ...), or the course of an
            iteration (`trace`, one entry a step); never a second result.
    """

    quantity: str
    unit: str = "1"
    samples: list[float] = field(default_factory=list)
    value: float | None = None
    status: str = "ok"
    note: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> float | None:
        """Return the value, or the median of the samples."""
        return self.value if self.value is not None else median(self.samples) if self.samples else None


@dataclass(frozen=True, kw_only=True)
class About:
    """Says what it was measured of.

    Attributes:
        options: complete, as plain JSON values; of a model, those given with it.
        model: the arch (`soft-tiny`, `timm:resnet18`) where a whole model is measured; `attention` is the one inside,
            which models of timm have not, nor an `impl`.
        impl: resolved, never "auto".
        label: the subject as the command named it.
    """

    attention: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    impl: str | None = None
    mode: str | None = None
    label: str | None = None


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where it was measured.

    Attributes:
        rows, cols: of the grid of tokens, or of the image in pixels where a model is measured, which has neither
            `heads` nor `head_dim`; `coords["part"]` then is "whole" or a stage.
        causal: True where a token sees itself and those before it alone; not written where all see all.
        coords: further coordinates by name.
    """

    batch: int | None = None
    heads: int | None = None
    rows: int | None = None
    cols: int | None = None
    head_dim: int | None = None
    causal: bool | None = None
    dtype: str | None = None
    device: str | None = None
    seed: int | None = None
    coords: dict[str, Any] = field(default_factory=dict)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns; 0 x 0 where there are none."""
        return self.rows or 0, self.cols or 0

    @property
    def tokens(self) -> int:
        """rows x cols; 0 where there is no grid."""
        return math.prod(self.grid)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where it comes from. A number that is quoted, not measured, has an empty environment."""

    environment: dict[str, Any] = field(default_factory=dict)
    started: str = ""
    schema: int = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Record(Reading, About, Point, Origin):
    """One number, in four parts, under the name of the measure, study or training that gave it."""

    measure: str

    @property
    def name(self) -> str:
        """The subject as the command named it; "" where a number has none."""
        return self.label or ""

    def identity(self) -> str:
        """Everything but the number and its origin: records of one identity measure the same thing."""
        what = {name: value for name, value in vars(self).items() if name in _IDENTITY and value is not None}
        return json.dumps(what, sort_keys=True)

    def to_json(self) -> str:
        """One line of JSON. JSON has no NaN: a number that does not exist is null, and the status says why."""
        there = {name: value for name in ORDER if (value := getattr(self, name)) is not None or name == "value"}
        return json.dumps(there, allow_nan=False)


_FIELDS = {f.name: str(f.type) for f in fields(Record)}
_IDENTITY = {"measure", "quantity", *(f.name for part in (About, Point) for f in fields(part))} - {"label"}
ORDER = ("measure", *(f.name for part in (Reading, About, Point, Origin) for f in fields(part)))
_NEEDED = {"measure", "schema", *(f.name for f in fields(Reading))}
_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "str | None": (str,), "int | None": (int,), "float | None": (int, float, type(None)),
    "list[float]": (list,), "dict[str, Any]": (dict,), "bool | None": (bool,),
}


def make(measure: str, reading: Reading, about: About, point: Point, origin: Origin) -> Record:
    """Return the record of a reading.

    JSON holds no infinity and no NaN. A value that is not finite has diverged; samples that are not finite are left out
    and counted in `detail`; a reading said to be ok that has no value has failed.
    """
    value, status, note = reading.summary, reading.status, reading.note
    samples = [float(s) for s in reading.samples if math.isfinite(s)]
    detail = {key: finite(entry) for key, entry in reading.detail.items()}
    if len(samples) < len(reading.samples):
        detail["samples_not_finite"] = len(reading.samples) - len(samples)
    if value is not None and not math.isfinite(value):
        value, status = None, "diverged" if status == "ok" else status
    elif value is None and status == "ok":
        status, note = "failed", "; ".join(filter(None, [note, "the measure gave no number"]))
    return _record({
        **_part(reading, Reading), **_part(about, About), **_part(point, Point), **_part(origin, Origin),
        "measure": measure, "value": None if value is None else float(value), "samples": samples, "status": status,
        "note": note, "detail": detail})


def origin(environment: dict[str, Any]) -> Origin:
    """Here and now."""
    return Origin(environment=environment, started=datetime.now(UTC).isoformat(timespec="seconds"))


def from_json(line: bytes | str) -> Record:
    """A record from one line. Raises ValueError with a short reason."""
    try:
        data = json.loads(line, parse_constant=_number, parse_float=_number, parse_int=_whole)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(data, dict) or "schema" not in data:
        raise ValueError("JSON without a schema number")
    schema = data["schema"]
    if schema not in _READS or isinstance(schema, bool):
        raise ValueError(f"schema {schema}, this softbench reads {SCHEMA}: install the version that wrote it")
    needed = _NEEDED if schema > 1 else _FIELDS.keys() - {"causal"}
    if missing := [name for name in ORDER if name in needed and name not in data]:
        raise ValueError(f"lacks {', '.join(missing)}")
    for name, kind in _FIELDS.items():
        value = data.get(name)
        if name in data and (not isinstance(value, _TYPES[kind]) or isinstance(value, bool) != (kind == "bool | None")):
            raise ValueError(f"{name} is {type(value).__name__}, not {kind}")
    if data["status"] not in STATUSES:
        raise ValueError(f"unknown status '{data['status']}'")
    if data["value"] is None and data["status"] == "ok":
        raise ValueError("the status is ok, yet there is no value")
    if data["unit"] not in UNITS:
        raise ValueError(f"unknown unit '{data['unit']}'")
    if not all(type(sample) in (int, float) for sample in data["samples"]):
        raise ValueError("samples are not numbers")
    fields = {name: data[name] for name in _FIELDS if name in data} if schema > 1 else _first_schema(data)
    plausible.check(fields, _FIELDS)
    return _record(fields)


def _first_schema(data: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record of schema 1, which wrote "" and 0, and of studies of no attention 1, for what was not."""
    named = bool(data["attention"] or data["model"])
    lies: tuple[Any, ...] = ("", 0) if named else ("", 0, 1, "forward")
    kept = {"seed", "rows", "cols"} if named or data["rows"] * data["cols"] > 1 else {"seed"}
    optional = {f.name for part in (About, Point) for f in fields(part) if str(f.type).endswith("| None")} - kept
    absent = {name for name in optional if data.get(name, "") in lies}
    return {name: data[name] for name in _FIELDS if name not in absent} | {"schema": SCHEMA}


def _record(fields_: dict[str, Any]) -> Record:
    return Record(**fields_)


def _part(whole: Any, part: type) -> dict[str, Any]:
    """Return the fields of one part of a record."""
    return {f.name: getattr(whole, f.name) for f in fields(part)}


def finite(entry: Any) -> Any:
    """The entry with None for each number that JSON cannot hold; lists and tuples are walked."""
    if isinstance(entry, float):
        return entry if math.isfinite(entry) else None
    return [finite(item) for item in entry] if isinstance(entry, list | tuple) else entry


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
