"""The answer: which attention is fastest at each length, with ties called ties, and how far each is from exact.

Times are compared by the rule of `softbench compare`: of all that ran at one point, the one with the smallest median is
compared with each other one, round by round where they were timed in turn. One that cannot be shown to be slower by
more than the margin, with 95 % confidence, is tied with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from softbench.case import WHOLE
from softbench.compare import verdicts
from softbench.compare.sides import Side
from softbench.compare.verdicts import Terms
from softbench.contracts import quantities
from softbench.records import Record
from softbench.reports import format
from softbench.reports.page._machines import Machine
from softbench.reports.rows import phrase
from softbench.reports.sheet import BASELINE
from softbench.reports.tables import Column, Table
from softbench.reports.tables.text import build
from softbench.stats import quartiles

TERMS = Terms()
_POINT = ("mode", "dtype", "batch", "heads", "head_dim", "causal", "device", "seed")
_ALIKE = ("batch", "heads", "head_dim", "causal", "seed", "coords")


@dataclass(frozen=True)
class Answer:
    """One sentence and its table: who is fastest, on one machine, in one setting, at each length or image size."""

    machine: str
    setting: str
    sentence: str
    table: Table
    facets: dict[str, str]


@dataclass(frozen=True)
class _Place:
    """One length: the records that have a time, the fastest first; `tied` are those not told apart from it, and the
    baseline may be without a time."""

    size: str
    ranked: list[Record]
    tied: list[Record]
    baseline: Record | None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(_name(record) for record in self.tied))

    @property
    def fastest(self) -> Record:
        return self.ranked[0]

    @property
    def next(self) -> Record | None:
        """The fastest of those that are slower beyond doubt."""
        return next((record for record in self.ranked if record not in self.tied), None)


def answers(machine: Machine, baseline: str = "") -> list[Answer]:
    """The answers that a machine's times give: attentions first, then whole models. Of the measures and studies that
    time, the first on the page serves."""
    timing = {r.measure for r in machine.records if tells(r, "fastest")}
    source = min(timing, key=lambda name: (quantities.section(name).place, name), default="")
    tried = [_without_task(r) for r in machine.of(source) if tells(r, "fastest")
             and r.coords.get("part", WHOLE) == WHOLE]
    made = []
    for models in (False, True):
        mine = [record for record in tried if bool(record.model) == models]
        base = baseline or (mine[0].name if models and mine else BASELINE)
        settings: dict[str, list[Record]] = {}
        for record in mine:
            settings.setdefault(_setting(record), []).append(record)
        for here in settings.values():
            places = _places(here, base)
            if any(len(place.ranked) > 1 for place in places):
                made.append(_answer(machine, here, places, mine, base))
    return made


def tells(record: Record, answer: str) -> bool:
    """True where a record's number answers that question."""
    return verdicts.quantity(record).answers == answer


def _answer(machine: Machine, here: Sequence[Record], places: list[_Place], every: Sequence[Record],
            base: str) -> Answer:
    models = bool(here[0].model)
    differing = [name for name in _ALIKE if len({json.dumps(getattr(r, name), sort_keys=True) for r in every}) > 1]
    words = [str(here[0].mode).replace("_", " + "), here[0].dtype, here[0].device]
    for name in differing:
        value = getattr(here[0], name)
        words += [phrase(k, v) for k, v in value.items()] if isinstance(value, dict) else [phrase(name, value)]
    return Answer(machine.name, ", ".join(map(format.text, words)), _sentence(places, models, base),
                  _table(places, models, base), {"mode": str(here[0].mode), "dtype": str(here[0].dtype)})


def _without_task(record: Record) -> Record:
    """The record without the name of the piece of a study that made it, which is no part of its setting."""
    return replace(record, coords={key: value for key, value in record.coords.items() if key != "task"})


def _setting(record: Record) -> str:
    return json.dumps([*(getattr(record, name) for name in _POINT), record.coords], sort_keys=True)


def _places(here: Sequence[Record], base: str) -> list[_Place]:
    sizes: dict[tuple[int, int, int], list[Record]] = {}
    for record in here:
        sizes.setdefault((record.tokens, *record.grid), []).append(record)
    square = len({key[0] for key in sizes}) == len(sizes) and not here[0].model
    places = []
    for (tokens, rows, cols), records in sorted(sizes.items()):
        ranked = sorted((r for r in records if r.value), key=lambda record: (record.value, _name(record)))
        if not ranked:
            continue
        baseline = next((r for r in records if base in (r.label, r.model or r.attention)), None)
        tied = [ranked[0], *(r for r in ranked[1:] if not _slower(ranked[0], r))]
        places.append(_Place(format.count(tokens) if square else f"{rows}x{cols}", ranked, tied, baseline))
    return places


def _slower(fastest: Record, other: Record) -> bool:
    """True where the other one is slower beyond doubt. Of single rounds, whose noise is unknown, the middle halves of
    the samples must lie apart, by more than the threshold."""
    base, head = (Side("", "x", [record], []) for record in (fastest, other))
    row, = verdicts.compare(base, head, TERMS).rows
    if row.verdict == verdicts.INCONCLUSIVE and row.low == 0:
        known = bool(fastest.samples and other.samples)
        apart = not known or quartiles(fastest.samples)[1] < quartiles(other.samples)[0]
        return apart and (other.value or 0) > (1 + TERMS.threshold) * (fastest.value or 0)
    return row.verdict == verdicts.SLOWER


def _name(record: Record) -> str:
    return format.text(record.label)


def _sentence(places: Sequence[_Place], models: bool, base: str) -> str:
    """`softmax up to 256 tokens; soft from 512 tokens on, at 16,384 105x as fast as softmax.`"""
    unit = "" if models else " tokens"
    runs = [(names, [place.size for place in run]) for names, run in groupby(places, key=lambda place: place.names)]
    parts = []
    for number, (names, sizes) in enumerate(runs):
        if len(sizes) == 1:
            where = f"at {sizes[0]}{unit}"
        elif 0 == number < len(runs) - 1:
            where = f"up to {sizes[-1]}{unit}"
        elif 0 < number == len(runs) - 1:
            where = f"from {sizes[0]}{unit} on"
        else:
            where = f"from {sizes[0]} to {sizes[-1]}{unit}"
        parts.append(f"{_listed(names)} {where}" + (", which tie" if len(names) > 1 else ""))
    end = places[-1]
    close = ""
    if end.baseline is not None and not end.baseline.value:
        close = f" At {end.size}{unit}, {format.text(base)} gives no number: {end.baseline.status}."
    elif end.baseline is not None and end.baseline not in end.tied:
        ratio = (end.baseline.value or 0) / (end.fastest.value or 1)
        close = f" At {end.size}{unit}, {_name(end.fastest)} is {format.ratio(ratio)} as fast as {format.text(base)}."
    return "; ".join(parts) + "." + close


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _table(places: Sequence[_Place], models: bool, base: str) -> Table:
    compared = any(place.baseline is not None for place in places)
    columns: list[tuple[Column, Callable[[_Place], str]]] = [
        (Column("image" if models else "tokens"), lambda place: place.size),
        (Column("fastest", right=False), lambda place: " = ".join(map(_name, place.tied))),
        (Column("time"), lambda place: format.quantity(place.fastest.value, "s")),
        *([(Column(f"vs {format.text(base)}"), lambda place: _times(place, place.baseline))] if compared else []),
        (Column("next", right=False), lambda place: _name(place.next) if place.next else format.MISSING),
        (Column("takes"), lambda place: _times(place, place.next))]
    return build([], columns, places, lambda place: ())


def _times(place: _Place, other: Record | None) -> str:
    """How many times as long as the fastest the other takes, or its status where it has no time."""
    if other is None:
        return format.MISSING
    return format.ratio(other.value / (place.fastest.value or 1.0)) if other.value else other.status


def errors(records: Sequence[Record]) -> Table | None:
    """How far attentions that were timed are from the exact one that each estimates, by kind of inputs; None where
    nothing says it.

    Where an attention was not measured with the very options that were timed, the nearest are taken, and named.
    """
    timed = {r.label: r for r in records if tells(r, "fastest") and not r.model}
    known = [r for r in records if tells(r, "accuracy") and r.value is not None and r.status == "ok"]
    chosen = {format.text(label): (one, near) for label, one in timed.items() if (near := _nearest(one, known))}
    if not chosen:
        return None
    kinds = list(dict.fromkeys(_inputs(r) for _, near in chosen.values() for r in near))
    lengths = {r.tokens for _, near in chosen.values() for r in near}
    columns = [Column("attention", right=False), Column("estimates", right=False), Column("measured with", right=False)]
    columns += [Column("tokens")] if len(lengths) > 1 else []
    columns += [Column(format.text(kind)) for kind in kinds]
    rows = []
    for label, (one, near) in chosen.items():
        by_kind, nearest = {_inputs(r): r for r in near}, near[0]
        against = format.text(str(nearest.coords.get("against", "")).replace("_", " "))
        against = "itself: it is exact" if against == nearest.attention else against
        row = [label, against, _options(one, nearest) or "the same options"]
        row += [format.count(nearest.tokens)] if len(lengths) > 1 else []
        rows.append([*row, *(_error(by_kind.get(kind)) for kind in kinds)])
    at = f" at {format.count(lengths.pop())} tokens" if len(lengths) == 1 else ""
    return Table([f"What it costs in accuracy: relative error of the attention matrix{at}, by kind of inputs. 0 is"
                  " exact; at 1 the error is as large as the matrix."], columns, rows)


def _nearest(timed: Record, known: Sequence[Record]) -> list[Record]:
    """The errors of the options nearest to those timed, at the largest length, one for each kind of inputs."""
    mine = [(distance, -r.tokens, r) for r in known if r.attention == timed.attention
            and (distance := _distance(timed.options, r.options)) is not None]
    if not mine:
        return []
    best = min(item[:2] for item in mine)
    return list({_inputs(r): r for distance, size, r in mine if (distance, size) == best}.values())


def _inputs(record: Record) -> str:
    return str(record.coords.get("inputs", ""))


def _distance(one: dict[str, Any], other: dict[str, Any]) -> float | None:
    """0 for equal options; for those that differ in one positive number, by how many powers of e; else None."""
    differing = [key for key in dict.fromkeys([*one, *other]) if one.get(key) != other.get(key)]
    if not differing:
        return 0.0
    entries = [side.get(differing[0]) for side in (one, other)]
    numbers = [n for n in entries if isinstance(n, int | float) and not isinstance(n, bool) and n > 0]
    if len(differing) > 1 or len(numbers) < 2:
        return None
    return abs(math.log(numbers[0]) - math.log(numbers[1]))


def _options(timed: Record, measured: Record) -> str:
    """The options of the error that differ: `features=144, not 256`."""
    return ", ".join(f"{format.text(key)}={format.text(value)}, not {format.text(timed.options.get(key))}"
                     for key, value in measured.options.items() if timed.options.get(key) != value)


def _error(record: Record | None) -> str:
    return format.MISSING if record is None else format.measured(record.value, record.unit)
