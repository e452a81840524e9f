"""A sheet: the records of one measure arranged for a reader, from which tables and plots are both drawn.

Attentions by themselves and whole models have sheets of their own: the tokens of a model are its pixels, and its size
is written as an image.

It settles once what both need: which columns are the same throughout, which tell points apart, what each subject is
called, which subject is the baseline, and which of its numbers a number may be compared with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import groupby
from typing import TYPE_CHECKING, Any

from softbench.case import WHOLE
from softbench.contracts import quantities
from softbench.contracts.quantities import Quantity
from softbench.errors import UsageError
from softbench.machine.environment import COMPARABLE
from softbench.machine.kinds import was_gpu
from softbench.records import Record
from softbench.records import frame as frames
from softbench.reports import format

if TYPE_CHECKING:
    import pandas as pd

FOREIGN_CPU = 0.05  # a larger share of the CPU in other processes makes a time doubtful
POINT = ("model", "mode", "dtype", "batch", "heads", "head_dim", "device", "seed")
BASELINE = "softmax"  # of attentions, where none is named; of models, the first is
_KNOWN = {f.name for f in fields(Record)} | {"tokens", "q1", "q3"}
_NOT_OF_MODELS = ("model", "heads", "head_dim", "inputs")


@dataclass(frozen=True)
class Number:
    """One record's number: `value` is None unless the status is "ok". Quartiles are NaN without samples.

    `floor` is the time that the machine's ceilings allow at best, where they are known.
    """

    value: float | None
    unit: str
    status: str
    note: str
    q1: float
    q3: float
    samples: int
    foreign_cpu: float | None
    floor: float | None = None

    @property
    def disturbed(self) -> bool:
        return self.foreign_cpu is not None and self.foreign_cpu > FOREIGN_CPU


@dataclass(frozen=True)
class Entry:
    """One subject at one point, with its numbers by quantity.

    Attributes:
        grid: rows and columns of tokens or pixels, as in 56x56.
        numbers: by quantity. A case that failed as a whole has one number, whose status stands for all quantities.
    """

    name: str
    impl: str
    point: dict[str, Any]
    grid: str
    numbers: dict[str, Number]

    @property
    def tokens(self) -> int:
        return int(self.point["tokens"])

    @property
    def batch(self) -> int:
        return int(self.point["batch"])

    def rate(self, quantity: str) -> float | None:
        """Images a second, of a time for a batch of them."""
        seconds = self.value(quantity)
        return self.batch / seconds if seconds else None

    def number(self, quantity: str) -> Number | None:
        if quantity in self.numbers or len(self.numbers) != 1:
            return self.numbers.get(quantity)
        only = next(iter(self.numbers.values()))
        return only if only.value is None else None

    def value(self, quantity: str) -> float | None:
        number = self.number(quantity)
        return number.value if number else None


@dataclass(frozen=True)
class Sheet:
    """The entries of one measure: sorted by point, and within a point the baseline first.

    Attributes:
        quantities: only those that have a value (all, where none has), in the order that their plugin wishes, or else
            of first appearance.
        known: what each of them is.
        names: the subjects, the baseline first, then in order of first appearance.
        baseline: the name of the subject that others are compared with, or None.
        varying: columns of the point, besides `tokens`, that differ between entries.
        fixed: columns of the point that are the same everywhere, with their value.
        hardware: the processor or GPU by its full name, where all entries ran on one.
        models: whether the subjects are whole models.
    """

    measure: str
    entries: list[Entry]
    quantities: list[str]
    known: dict[str, Quantity]
    names: list[str]
    baseline: str | None
    varying: list[str]
    fixed: dict[str, Any]
    hardware: str
    models: bool

    @property
    def headline(self) -> Quantity:
        """The quantity that the measure is about."""
        return next(iter(quantities.listed(self.measure)), self.known[self.quantities[0]])

    def groups(self) -> Iterator[list[Entry]]:
        """Entries that share a point."""
        for _, group in groupby(self.entries, key=lambda entry: entry.point):
            yield list(group)

    def panels(self) -> list[tuple[dict[str, Any], list[Entry]]]:
        """Entries that differ in nothing but subject and tokens, with what sets them apart from other panels."""
        found: dict[tuple[Any, ...], list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(tuple(entry.point[name] for name in self.varying), []).append(entry)
        return [(dict(zip(self.varying, key, strict=True)), entries) for key, entries in found.items()]

    def ratios(self, quantity: str) -> list[float | None]:
        """For each entry, its value over that of the baseline at the same point; None where either is missing."""
        found: list[float | None] = []
        for group in self.groups():
            base = next((e.value(quantity) for e in group if e.name == self.baseline), None)
            for entry in group:
                value = entry.value(quantity)
                found.append(value / base if value is not None and base else None)
        return found

    def captions(self) -> list[str]:
        """One line on what was measured and one on where, from all that is the same throughout."""
        what = [phrase(c, v) for c, v in self.fixed.items() if not c.startswith("env.")]
        if len(self.impls) == 1:
            what.append(f"impl {self.impls[0]}")
        on_gpu = any(was_gpu(entry.point["device"]) for entry in self.entries)
        where = [phrase(c, v) for c, v in self.fixed.items() if c.startswith("env.") and (on_gpu or c != "env.tf32")]
        if self.hardware:
            where.insert(1, self.hardware)
        return [", ".join(line) for line in (what, where) if line]

    @property
    def impls(self) -> list[str]:
        """The implementations that ran; a case that could not run may have none."""
        return list(dict.fromkeys(entry.impl for entry in self.entries if entry.impl))

    @property
    def warning(self) -> str:
        """How many of the numbers other processes disturbed; empty where none."""
        numbers = [number for entry in self.entries for number in entry.numbers.values() if number.value is not None]
        disturbed = sum(number.disturbed for number in numbers)
        return (f"Doubtful: during {disturbed} of {len(numbers)} measurements other processes used more than"
                f" {format.share(FOREIGN_CPU)} of the CPU.") if disturbed else ""

    @property
    def compares(self) -> bool:
        """Whether there is a baseline and something to compare with it."""
        return self.baseline is not None and len(self.names) > 1


def sheets(frame: pd.DataFrame, baseline: str = "") -> list[Sheet]:
    """One sheet for each measure of the frame, in order of first appearance; two where it has attentions and models.

    Args:
        baseline: a label, or the name of an attention or model; where no record has it, nothing is compared. Empty:
            softmax for attentions, for models the first.
    Raises:
        UsageError: the frame has no records.
    """
    rows = [row | {name: row[name] or "" for name in ("label", "impl")} for row in frames.rows(frame)]
    if not rows:
        raise UsageError("There are no records to show.")
    kinds: dict[tuple[str, bool], list[dict[Any, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["measure"], bool(row["model"])), []).append(row)
    return [_sheet(measure, found, baseline, models) for (measure, models), found in kinds.items()]


def _sheet(measure: str, rows: list[dict[Any, Any]], baseline: str, models: bool) -> Sheet:
    points = [_point(row, models) for row in rows]
    sizes = [point["grid"] for point in points]
    columns = _order(points[0])
    if not _grids_collide(points):
        grids = {point["grid"] for point in points}
        points = [point | {"grid": point["grid"] if len(grids) == 1 else None} for point in points]
    names = _names(rows, points)
    base = _baseline(rows, names, baseline or (rows[0]["label"] if models else BASELINE))
    order = sorted(dict.fromkeys(names), key=lambda name: name != base)

    numbers: dict[tuple[Any, ...], dict[str, Number]] = {}
    entries = []
    for row, point, name, size in zip(rows, points, names, sizes, strict=True):
        key = (name, row["impl"], *point.values())
        if key not in numbers:
            numbers[key] = {}
            entries.append(Entry(name, format.text(row["impl"]), point, size, numbers[key]))
        numbers[key][format.text(row["quantity"])] = _number(row)

    places = {column: ranks(point[column] for point in points) for column in columns}
    entries.sort(key=lambda e: (*(places[c][e.point[c]] for c in columns), order.index(e.name)))
    known = _known(format.text(measure), entries)
    fixed = {c: points[0][c] for c in columns if len(places[c]) == 1 and points[0][c] not in (None, "")}
    if models:
        fixed = {{"grid": "image"}.get(c, c): value for c, value in fixed.items()
                 if c != "tokens" and (c, value) != ("part", WHOLE)}
    return Sheet(format.text(measure), entries, list(known), known, order, base,
                 varying=[c for c in columns if c != "tokens" and len(places[c]) > 1],
                 fixed=fixed, hardware=hardware(rows), models=models)


def _point(row: dict[Any, Any], models: bool) -> dict[str, Any]:
    names = [*POINT, *(c for c in row if c not in _KNOWN and not c.startswith("env."))]
    names = [name for name in names if not (models and name in _NOT_OF_MODELS)]
    names += [f"env.{key}" for key in COMPARABLE if f"env.{key}" in row]
    point = {format.text(name): _hashable(row[name]) for name in names}
    return point | {"tokens": int(row["tokens"] or 0), "grid": f"{row['rows'] or 0}x{row['cols'] or 0}"}


def _order(columns: Iterable[str]) -> list[str]:
    """Columns from the outermost to the innermost: machines, then the rest, tokens, and the part of a model last."""
    return sorted(columns, key=lambda c: (not c.startswith("env."), c in ("tokens", "grid", "part"), c == "part"))


def _grids_collide(points: list[dict[str, Any]]) -> bool:
    """Whether some number of tokens stands for grids of different shapes."""
    return len({p["tokens"] for p in points}) < len({(p["tokens"], p["grid"]) for p in points})


def _hashable(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, sort_keys=True)
    return None if format.missing(value) else value


def ranks(values: Iterable[Any]) -> dict[Any, int]:
    """Numbers in ascending order, text in order of first appearance, missing values last."""
    distinct = list(dict.fromkeys(values))
    present = [v for v in distinct if v is not None]
    if all(isinstance(v, int | float) for v in present):
        present.sort()
    return {value: rank for rank, value in enumerate([*present, *(v for v in distinct if v is None)])}


def phrase(column: str, value: Any) -> str:
    """`float32`, `batch 8`, `torch 2.10.0`: a name is written where the value does not speak for itself."""
    if column in ("mode", "dtype", "device", "env.machine"):
        return format.text(value)
    name = column.removeprefix("env.")
    return f"{name} {format.count(value) if name == 'tokens' else format.text(value)}"


def hardware(rows: list[dict[Any, Any]]) -> str:
    """The processor or GPU by its full name, where all rows ran on one; otherwise empty."""
    found = set()
    for row in rows:
        key = "env.gpu" if was_gpu(row["device"]) else "env.cpu"
        found.add(None if format.missing(row.get(key)) else format.text(row[key]))
    only = found.pop() if len(found) == 1 else None
    return only or ""


def _names(rows: list[dict[Any, Any]], points: list[dict[str, Any]]) -> list[str]:
    """What each row's subject is called: its label, and whatever tells apart subjects that share one.

    Options that differ anywhere under one label are written behind it, so that no line mixes them; implementations
    are only where two of them ran at the same point.
    """
    subjects: dict[str, list[dict[str, Any]]] = {}
    impls: dict[tuple[Any, ...], set[str]] = {}
    for row, point in zip(rows, points, strict=True):
        subjects.setdefault(row["label"], []).append({"attention": row["attention"]} | row["options"])
        impls.setdefault((row["label"], *point.values()), set()).update({row["impl"]} - {""})
    differing = {label: [key for key in dict.fromkeys(k for s in same for k in s)
                         if any(s.get(key) != same[0].get(key) for s in same)] for label, same in subjects.items()}
    several = {key[0] for key, found in impls.items() if len(found) > 1}
    names = []
    for row in rows:
        traits = {"attention": row["attention"]} | row["options"]
        extra = [f"{key}={format.text(traits.get(key))}" for key in differing[row["label"]]]
        extra += [f"impl={row['impl']}"] if row["label"] in several else []
        names.append(format.text(row["label"] + (f" ({', '.join(extra)})" if extra else "")))
    return names


def _baseline(rows: list[dict[Any, Any]], names: list[str], wanted: str) -> str | None:
    for column in ("label", "attention", "model"):
        for row, name in zip(rows, names, strict=True):
            if row[column] == wanted:
                return name
    return None


def _number(row: dict[Any, Any]) -> Number:
    ok = row["status"] == "ok" and not format.missing(row["value"])
    detail, samples = row["detail"], row["samples"]
    foreign = detail.get("foreign_cpu") if isinstance(detail, dict) else None
    limit = detail.get("limit") if isinstance(detail, dict) else None
    floor = limit.get("floor") if isinstance(limit, dict) else None
    return Number(float(row["value"]) if ok else None, row["unit"], row["status"], format.text(row["note"] or ""),
                  row["q1"], row["q3"], len(samples) if isinstance(samples, list) else 0,
                  float(foreign) if isinstance(foreign, int | float) else None,
                  float(floor) if isinstance(floor, int | float) else None)


def _known(measure: str, entries: list[Entry]) -> dict[str, Quantity]:
    """The quantities that have a value, or all where none has, and what each is."""
    every = {name: number.unit for entry in entries for name, number in entry.numbers.items()}
    with_value = [q for q in every if any(q in e.numbers and e.numbers[q].value is not None for e in entries)]
    known = [quantities.of(measure, name, every[name]) for name in with_value or every]
    places = {listed.name: place for place, listed in enumerate(quantities.listed(measure))}
    known.sort(key=lambda quantity: (quantity.order, places.get(quantity.name, len(places))))
    return {quantity.name: quantity for quantity in known}
