"""What a view sees of a frame: the records it keeps, and the columns that tell them apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from softbench.machine.environment import COMPARABLE
from softbench.machine.kinds import was_gpu
from softbench.records import WHOLE_TASK, Record
from softbench.records.frame import rows
from softbench.records.views import View
from softbench.reports import format
from softbench.reports.sheet import POINT, hardware, phrase, ranks

if TYPE_CHECKING:
    import pandas as pd

_KNOWN = {f.name for f in fields(Record)} | {"tokens", "q1", "q3"}
_TASK = "task"  # the coordinate that names the piece of the study, and nothing about its numbers
Key = tuple[Any, ...]


@dataclass(frozen=True)
class Seen:
    """One record of a study. `low` and `high` bound its confidence interval, NaN where it has none."""

    row: Mapping[Any, Any]
    quantity: str
    value: float | None
    unit: str
    status: str
    note: str
    low: float
    high: float
    trace: list[float | None]

    @property
    def word(self) -> str:
        """What stands where the value would."""
        return format.MISSING if self.status == "ok" else self.status.replace("_", " ")

    @property
    def printed(self) -> str:
        """How a quoted number is written where it comes from; "" for one that was measured."""
        detail = self.row.get("detail")
        return format.text(detail.get("printed") or "") if isinstance(detail, Mapping) else ""

    @property
    def trusted(self) -> bool:
        """Whether there is a value that no status casts doubt on."""
        return self.value is not None and self.status == "ok"

    def at(self, column: str) -> Any:
        """The record's entry in a column; None where it has none."""
        value = self.row.get(column)
        if column not in self.row and "." in column:
            head, _, key = column.partition(".")
            mapping = self.row.get(head)
            value = mapping.get(key) if isinstance(mapping, Mapping) else None
        if isinstance(value, list | dict):
            return format.text(value)
        return None if format.missing(value) or value == "" else value

    def key(self, columns: Iterable[str]) -> Key:
        return tuple(self.at(column) for column in columns)


def select(view: View, frame: pd.DataFrame, quantities: Iterable[str]) -> list[Seen]:
    """The records that the view keeps, of these quantities, without those that stand for whole tasks."""
    wanted = set(quantities)
    found = [_seen(row) for row in rows(frame) if row["quantity"] in wanted and not _whole(row)]
    return [seen for seen in found if all(_fits(seen.at(column), value) for column, value in view.where.items())]


def whole_tasks(frame: pd.DataFrame) -> list[Seen]:
    """The records that say what became of tasks without a result."""
    return [_seen(row) for row in rows(frame) if _whole(row)]


def telling(found: Sequence[Seen], columns: Sequence[str]) -> list[str]:
    """Columns to add to these, so that no two records of a quantity agree in all of them.

    Only as many as it takes, from the outermost: another machine, then another point, then other options.
    """
    added: list[str] = []
    for candidate in _candidates(found):
        if candidate in columns:
            continue
        groups: dict[Key, list[Seen]] = {}
        for seen in found:
            groups.setdefault((seen.quantity, *seen.key([*columns, *added])), []).append(seen)
        if any(len({seen.at(candidate) for seen in group}) > 1 for group in groups.values()):
            added.append(candidate)
    return added


def grouped(found: Iterable[Seen], columns: Sequence[str]) -> dict[Key, list[Seen]]:
    """Records by what they have in these columns: numbers ascend, text keeps the order of the records."""
    found = list(found)
    places = [ranks(seen.at(column) for seen in found) for column in columns]
    groups: dict[Key, list[Seen]] = {}
    for seen in found:
        groups.setdefault(seen.key(columns), []).append(seen)

    def order(key: Key) -> list[int]:
        return [place[value] for place, value in zip(places, key, strict=True)]

    return {key: groups[key] for key in sorted(groups, key=order)}


def captions(found: Sequence[Seen], view: View, shown: Iterable[str]) -> list[str]:
    """One line on what is the same in all these records and not shown elsewhere, and one on where they were made.

    What a view selects by a coordinate is for its title to say. Quoted numbers have no place of their own.
    """
    found = [seen for seen in found if not seen.printed] or found
    shown = {*shown, *(column for column in view.where if column not in POINT)}
    same = {column: found[0].at(column) for column in _candidates(found)
            if column not in shown and not column.startswith(("env.", "options.")) and _fixed(found, column)
            and not _says_nothing(column, found[0].at(column))}
    if found[0].at("model") and "tokens" in same:
        same["tokens"] = f"{found[0].at('rows')}x{found[0].at('cols')}"
        view = replace(view, words={**view.words, "tokens": "image"})
    what = [phrase(column, value) if column in POINT else f"{word(view, column)} {entry(column, value)}"
            for column, value in same.items()]
    rows = [dict(seen.row) for seen in found]
    on_gpu = any(was_gpu(seen.at("device")) for seen in found)
    where = [phrase(f"env.{key}", found[0].at(f"env.{key}")) for key in COMPARABLE
             if _fixed(found, f"env.{key}") and (on_gpu or key != "tf32")]
    if machine := hardware(rows):
        where.insert(1, machine)
    return [", ".join(line) for line in (what, where) if line]


def word(view: View, name: str) -> str:
    """What a column or quantity is called."""
    return view.words.get(name, name.rpartition(".")[2].replace("_", " "))


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


def front(points: Sequence[Sequence[float]]) -> list[bool]:
    """Which points no other point beats: is nowhere larger and somewhere smaller."""
    def beats(one: Sequence[float], other: Sequence[float]) -> bool:
        return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)

    return [not any(beats(other, point) for other in points) for point in points]


def _seen(row: dict[Any, Any]) -> Seen:
    detail = row["detail"] if isinstance(row["detail"], dict) else {}
    interval, trace = detail.get("ci95"), detail.get("trace")
    low, high = interval if isinstance(interval, list) and None not in interval else (math.nan, math.nan)
    return Seen(row, row["quantity"], None if format.missing(row["value"]) else float(row["value"]), row["unit"],
                row["status"], format.text(row["note"] or ""), low, high, trace if isinstance(trace, list) else [])


def _whole(row: dict[Any, Any]) -> bool:
    return isinstance(row["detail"], dict) and bool(row["detail"].get(WHOLE_TASK))


def _fits(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, tuple) else bool(value == wanted)


def _candidates(found: Sequence[Seen]) -> list[str]:
    """Columns that may tell records apart, from the outermost to the innermost."""
    coordinates = [c for c in found[0].row if c not in _KNOWN and c != _TASK and not c.startswith("env.")]
    options = dict.fromkeys(f"options.{key}" for seen in found for key in seen.row["options"])
    machine = (f"env.{key}" for key in COMPARABLE)
    return [*machine, *POINT, "tokens", *coordinates, "attention", *options, "label", "impl"]


def _fixed(found: Sequence[Seen], column: str) -> bool:
    return found[0].at(column) is not None and len({seen.at(column) for seen in found}) == 1


def _says_nothing(column: str, value: Any) -> bool:
    """What is not of matrices or of models is 1 or 0 for them; attentions and labels are shown."""
    return column in ("attention", "label", "impl", "seed") or (column, value) == ("mode", "forward") or (
        column in ("batch", "heads", "head_dim", "tokens") and value in (0, 1))
