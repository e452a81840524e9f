"""Rows: a record as tables and figures read it; which of them a view keeps, how they group, what captions say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from softbench.machine.environment import COMPARABLE
from softbench.machine.kinds import was_gpu
from softbench.records import WHOLE_TASK, Record
from softbench.records import frame as frames
from softbench.records.views import View
from softbench.reports import format

if TYPE_CHECKING:
    import pandas as pd

FOREIGN_CPU = 0.05  # a larger share of the CPU in other processes makes a time doubtful
POINT = ("model", "mode", "causal", "dtype", "batch", "heads", "head_dim", "device", "seed")
_KNOWN = {f.name for f in fields(Record)} | {"tokens", "q1", "q3"}
_TASK = "task"  # the coordinate that names the piece of the study, and nothing about its numbers
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Row:
    """One record.

    Attributes:
        columns: its fields, coordinates and environment, as in a frame.
        value: the number, whatever its status; None where there is none.
        interval: the bounds of its confidence interval, NaN where it has none.
        quartiles: the middle half of its samples, NaN without samples.
    """

    columns: Mapping[Any, Any]
    quantity: str
    unit: str
    status: str
    note: str
    detail: Mapping[str, Any]
    value: float | None
    interval: tuple[float, float]
    quartiles: tuple[float, float]

    @property
    def trusted(self) -> bool:
        """True where there is a value that no status casts doubt on."""
        return self.status == "ok" and self.value is not None

    @property
    def sound(self) -> float | None:
        """The value, where it can be trusted."""
        return self.value if self.status == "ok" else None

    @property
    def word(self) -> str:
        """The status, to stand where the value would."""
        return format.MISSING if self.status == "ok" else self.status.replace("_", " ")

    @property
    def samples(self) -> int:
        """Their number."""
        samples = self.columns["samples"]
        return len(samples) if isinstance(samples, list) else 0

    @property
    def trace(self) -> list[float | None]:
        """The course of an iteration, an entry a step."""
        trace = self.detail.get("trace")
        return trace if isinstance(trace, list) else []

    @property
    def printed(self) -> str:
        """A quoted number as it is written where it comes from; "" for one that was measured."""
        return format.text(self.detail.get("printed") or "")

    @property
    def floor(self) -> float | None:
        """The time that the machine's ceilings allow at best, where they are known."""
        limit = self.detail.get("limit")
        return _number(limit.get("floor")) if isinstance(limit, Mapping) else None

    @property
    def foreign_cpu(self) -> float | None:
        """The share of the CPU that other processes had, where that is known."""
        return _number(self.detail.get("foreign_cpu"))

    @property
    def disturbed(self) -> bool:
        """True where other processes had so much of the CPU that a time is doubtful."""
        return (self.foreign_cpu or 0.0) > FOREIGN_CPU

    def at(self, column: str) -> Any:
        """The record's entry in a column; None where it has none."""
        value = self.columns.get(column)
        if column not in self.columns and "." in column:
            head, _, key = column.partition(".")
            mapping = self.columns.get(head)
            value = mapping.get(key) if isinstance(mapping, Mapping) else None
        if isinstance(value, list | dict):
            return json.dumps(value, sort_keys=True, default=str)
        return None if format.missing(value) or value == "" else value

    def key(self, columns: Iterable[str]) -> Key:
        return tuple(self.at(column) for column in columns)


def of(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame."""
    return list(map(row, frames.rows(frame)))


def row(columns: Mapping[Any, Any]) -> Row:
    """The row with these entries."""
    detail = columns["detail"] if isinstance(columns["detail"], Mapping) else {}
    ends = detail.get("ci95")
    interval = (ends[0], ends[1]) if isinstance(ends, list) and None not in ends else (math.nan, math.nan)
    return Row(columns, format.text(columns["quantity"]), columns["unit"], columns["status"],
               format.text(columns["note"] or ""), detail, _number(columns["value"]), interval,
               (columns["q1"], columns["q3"]))


def select(view: View, rows: Iterable[Row], quantities: Iterable[str]) -> list[Row]:
    """The rows that the view keeps, of these quantities, without those that stand for whole tasks."""
    names = set(quantities)
    kept = [row for row in rows if row.quantity in names and not row.detail.get(WHOLE_TASK)]
    return [row for row in kept if all(_fits(row.at(column), value) for column, value in view.where.items())]


def telling(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """Columns to add to these, so that no two rows of a quantity agree in all of them.

    Only as many as it takes, from the outermost: another machine, then another point, then other options.
    """
    added: list[str] = []
    for candidate in _candidates(rows):
        if candidate in columns:
            continue
        groups: dict[Key, set[Any]] = {}
        for row in rows:
            groups.setdefault((row.quantity, *row.key([*columns, *added])), set()).add(row.at(candidate))
        if any(len(entries) > 1 for entries in groups.values()):
            added.append(candidate)
    return added


def grouped(rows: Iterable[Row], columns: Sequence[str]) -> dict[Key, list[Row]]:
    """Rows by what they have in these columns: numbers ascend, text keeps the order of the records."""
    groups: dict[Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.key(columns), []).append(row)
    places = [ranks(entries) for entries in zip(*groups, strict=True)]

    def order(key: Key) -> list[int]:
        return [place[value] for place, value in zip(places, key, strict=True)]

    return {key: groups[key] for key in sorted(groups, key=order)}


def ranks(values: Iterable[Any]) -> dict[Any, int]:
    """Numbers in ascending order, text in order of first appearance, missing values last."""
    distinct = list(dict.fromkeys(values))
    present = [v for v in distinct if v is not None]
    if all(isinstance(v, int | float) for v in present):
        present.sort()
    return {value: rank for rank, value in enumerate([*present, *(v for v in distinct if v is None)])}


def front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other point beats: is nowhere larger and somewhere smaller."""
    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)

    return [not any(beats(other, point) for other in points) for point in points]


def captions(rows: Sequence[Row], view: View, shown: Iterable[str]) -> list[str]:
    """One line on what is the same in all these rows and not shown elsewhere, and one on where they were made.

    What a view selects by a coordinate is for its title to say. Quoted numbers have no place of their own.
    """
    rows = [row for row in rows if not row.printed] or rows
    shown = {*shown, *(column for column in view.where if column not in POINT)}
    same = {column: rows[0].at(column) for column in _candidates(rows)
            if column not in shown and not column.startswith(("env.", "options.")) and _fixed(rows, column)
            and not _says_nothing(column, rows[0].at(column))}
    if rows[0].at("model") and "tokens" in same and rows[0].at("rows") != 1:  # a sequence has one row
        same["tokens"] = f"{rows[0].at('rows')}x{rows[0].at('cols')}"
        view = replace(view, words={**view.words, "tokens": "image"})
    what = [phrase(column, value) if column in POINT else f"{word(view, column)} {entry(column, value)}"
            for column, value in same.items()]
    return [line for line in (", ".join(what), made_at(rows)) if line]


def made_at(rows: Sequence[Row]) -> str:
    """One line on what is the same in the environments of all these rows; "" where nothing is."""
    on_gpu = any(was_gpu(row.at("device")) for row in rows)
    where = [phrase(f"env.{key}", rows[0].at(f"env.{key}")) for key in COMPARABLE
             if _fixed(rows, f"env.{key}") and (on_gpu or key != "tf32")]
    chips = {row.at("env.gpu" if was_gpu(row.at("device")) else "env.cpu") for row in rows}
    if len(chips) == 1 and (chip := chips.pop()):
        where.insert(1, format.text(chip))
    return ", ".join(where)


def phrase(column: str, value: Any) -> str:
    """`float32`, `batch 8`, `torch 2.10.0`: a name is written where the value does not speak for itself."""
    if column in ("mode", "dtype", "device", "env.machine"):
        return format.text(value)
    if column == "causal":
        return "causal" if value else "not causal"
    name = format.text(column.removeprefix("env."))
    return f"{name} {format.count(value) if name == 'tokens' else format.text(value)}"


def word(view: View, name: str) -> str:
    """The word for a column or quantity."""
    return view.words[name] if name in view.words else format.text(name.rpartition(".")[2].replace("_", " "))


def described(view: View, column: str, value: Any) -> str:
    """`smooth`, `landmarks 49`: text speaks for itself, a number needs its column."""
    return format.text(value) if isinstance(value, str) else f"{word(view, column)} {entry(column, value)}"


def entry(column: str, value: Any) -> str:
    """An entry of a column as text."""
    if value is None:
        return "-"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format.count(value) if column == "tokens" else format.coordinate(value)
    return format.text(value)


def coordinates(rows: Sequence[Row]) -> list[str]:
    """The columns that plugins added to those of every record."""
    return [column for column in rows[0].columns if column not in _KNOWN and not column.startswith("env.")]


def _number(value: Any) -> float | None:
    return None if format.missing(value) or not isinstance(value, int | float) else float(value)


def _fits(value: Any, allowed: Any) -> bool:
    return value in allowed if isinstance(allowed, tuple) else bool(value == allowed)


def _candidates(rows: Sequence[Row]) -> list[str]:
    """Columns that may tell rows apart, from the outermost to the innermost."""
    options = dict.fromkeys(f"options.{key}" for row in rows for key in row.columns["options"])
    machine = (f"env.{key}" for key in COMPARABLE)
    return [*machine, *POINT, "tokens", *(c for c in coordinates(rows) if c != _TASK), "attention", *options, "label",
            "impl"]


def _fixed(rows: Sequence[Row], column: str) -> bool:
    return rows[0].at(column) is not None and len({row.at(column) for row in rows}) == 1


def _says_nothing(column: str, value: Any) -> bool:
    """True where a caption leaves it out: 1 and 0 stand for what matrices and models have not; labels are shown."""
    return column in ("attention", "label", "impl", "seed") or (column, value) == ("mode", "forward") or (
        column in ("batch", "heads", "head_dim", "tokens") and value in (0, 1))
