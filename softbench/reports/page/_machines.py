"""Machines: records by where they were made, so that times of two machines never stand in one column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from softbench.machine.environment import COMPARABLE
from softbench.records import Record
from softbench.reports import format

PUBLISHED = "published numbers"  # where numbers come from that were quoted, when nothing beside them was measured
_NAMED = {"threads": "threads", "torch": "torch", "cuda": "CUDA", "malloc": "malloc", "denormals": "denormals",
          "tf32": "TF32", "machine": ""}


@dataclass(frozen=True)
class Machine:
    """One environment within which numbers may be compared. `key` is unique in the page, `records` are in order."""

    name: str
    key: str
    environment: dict[str, Any]
    records: list[Record]

    def of(self, measure: str) -> list[Record]:
        return [record for record in self.records if record.measure == measure]


def machines(records: Iterable[Record]) -> list[Machine]:
    """The machines behind these records, in order of first appearance. Quoted numbers stand with each that measured.

    One machine in two settings, such as two numbers of threads, counts as two, and its name says what differs.
    """
    groups: dict[tuple[str, ...], list[Record]] = {}
    quoted = []
    for record in records:
        if record.environment:
            groups.setdefault(tuple(str(record.environment.get(k)) for k in COMPARABLE), []).append(record)
        else:
            quoted.append(record)
    names = _names(list(groups))
    places = []
    for number, (name, own) in enumerate(zip(names, groups.values(), strict=True)):
        measures = {record.measure for record in own}
        beside = [record for record in quoted if record.measure in measures]
        places.append(Machine(name, f"m{number}", own[-1].environment, [*beside, *own]))
    measured = {record.measure for group in groups.values() for record in group}
    if alone := [record for record in quoted if record.measure not in measured]:
        places.append(Machine(PUBLISHED, f"m{len(places)}", {}, alone))
    return places


def _names(keys: Sequence[tuple[str, ...]]) -> list[str]:
    names = []
    for key in keys:
        same = [other for other in keys if other[0] == key[0]]
        differing = [f"{_NAMED[column]} {value}" for place, (column, value) in enumerate(
            zip(COMPARABLE, key, strict=True)) if len({other[place] for other in same}) > 1]
        names.append(format.text(key[0] + (f" ({', '.join(differing)})" if differing else "")))
    return names
