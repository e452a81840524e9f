"""Verdicts: the records of two sides become one comparison a case, or the reason why there cannot be one.

What a number is, its plugin says (`softbench.contracts.quantities`). Times are judged by `softbench.compare.rule`, and
only between environments that agree. Exact quantities must be equal, and results of seeded studies agree within a
tolerance, whole numbers exactly. What follows from times is not judged. Whether a case ran at all comes before any
time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from softbench.compare import rule, sides
from softbench.compare.rule import Estimate
from softbench.compare.sides import Side
from softbench.contracts import quantities
from softbench.contracts.quantities import Quantity
from softbench.dtypes import rounding
from softbench.machine import environment
from softbench.machine.kinds import was_gpu
from softbench.records import Record
from softbench.stats import median

SLOWER, FASTER, SAME, INCONCLUSIVE = rule.SLOWER, rule.FASTER, rule.SAME, rule.INCONCLUSIVE
BROKEN, MISSING, WORSE, CHANGED = "broken", "missing", "worse", "changed"
BETTER, MENDED, NEW, INCOMPARABLE = "better", "mended", "new", "not comparable"
# From what a reader must see first to what matters least.
ORDER = (BROKEN, MISSING, SLOWER, WORSE, CHANGED, INCONCLUSIVE, INCOMPARABLE, NEW, MENDED, BETTER, FASTER, SAME)
FAILURES, REGRESSIONS = (BROKEN, MISSING), (SLOWER, WORSE, CHANGED)
FINE, ERROR, REGRESSED, UNDECIDED, SOME_FAILED = 0, 1, 3, 4, 5

_UNDECIDED = "inconclusive"  # status of a study that could not decide
_LIMITS = ("unsupported", "oom", "diverged")  # what a version cannot do, which may stay so; not a run that failed
NOT_THERE = "not_run"  # status of a case that a version does not know
_TINIEST = 1e-12  # no call takes less, nor as many seconds as its inverse
_KERNELS = ("cpu_capability", "driver", "triton")  # beside environment.COMPARABLE, what decides which code runs
_GPU_ONLY = ("driver", "triton")
KEYS = (*environment.COMPARABLE, *_KERNELS, "gpu")  # entries of an environment that may make sides incomparable


@dataclass(frozen=True)
class Terms:
    """Says what counts as a change.

    Attributes:
        threshold: a part of one: changes of a time up to it are the same.
        floor: seconds: a time changed by less is the same, whatever the ratio.
        tolerance: relative, of seeded results that are not whole numbers.
        noise, run_noise: machine -> what `softbench doctor` measured there, parts of one: the noise floor of rounds
            that ran side by side, and how single runs of the same code differ.
        across: entries of the environment that may differ.
        allow_missing: a case that only the base has is no failure.
    """

    threshold: float = 0.05
    floor: float = 1e-6
    tolerance: float = 0.01
    noise: Mapping[str, float] = field(default_factory=dict)
    run_noise: Mapping[str, float] = field(default_factory=dict)
    across: tuple[str, ...] = ()
    allow_missing: bool = False


@dataclass(frozen=True)
class Row:
    """One case: its records (the latest run of each side), the verdict, and what it rests on.

    Attributes:
        ratio: head over base, for a time over the units that were compared; None where there is none.
        low, high: the interval of the ratio, for times.
        margin: the smallest relative change that counts, for times.
        units: what was compared: "5 rounds", "5 pairs", "3 runs"; empty for exact numbers.
        note: the reason of the verdict, or a remark on it.
        times: of a time, the geometric mean of each side over these units, so that their quotient is the ratio; the
            medians of whole runs may say something else.
    """

    base: Record | None
    head: Record | None
    verdict: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    margin: float | None = None
    units: str = ""
    note: str = ""
    times: tuple[float, float] | None = None

    @property
    def values(self) -> tuple[float | None, float | None]:
        """The numbers of base and head that the ratio is of; None where a side has none."""
        return self.times or (self.base.value if self.base else None, self.head.value if self.head else None)

    @property
    def record(self) -> Record:
        """The record that says what the case is."""
        record = self.head or self.base
        assert record is not None
        return record

    @property
    def both_ran(self) -> bool:
        """True where each side has a number."""
        return all(record is not None and record.status == "ok" for record in (self.base, self.head))

    @property
    def cost(self) -> float:
        """How much more the head costs, as a log ratio; 0 where nothing was compared."""
        if not self.ratio or self.ratio < 0:
            return 0.0
        return math.log(self.ratio) * (-1 if quantity(self.record).better == "more" else 1)


@dataclass(frozen=True)
class Comparison:
    """All cases of two sides, the most serious first."""

    rows: list[Row]

    @property
    def counts(self) -> dict[str, int]:
        """How many cases have each verdict, the most serious first."""
        numbers = Counter(row.verdict for row in self.rows)
        return {verdict: numbers[verdict] for verdict in ORDER if numbers[verdict]}

    @property
    def compared(self) -> bool:
        """True where any case at all was compared; "nothing" is never a success."""
        return any(row.verdict in (BROKEN, MENDED) or (row.both_ran and row.verdict != INCOMPARABLE)
                   for row in self.rows)

    def mean_ratio(self, measure: str, quantity: str) -> float | None:
        """The geometric mean of the ratios of a time, over the cases that were compared."""
        logs = [math.log(row.ratio) for row in self.rows
                if (row.record.measure, row.record.quantity) == (measure, quantity) and row.low is not None
                and row.ratio is not None]
        return math.exp(math.fsum(logs) / len(logs)) if logs else None

    def exit_code(self, fail_on_inconclusive: bool = False) -> int:
        """0 fine, 3 a regression, 4 inconclusive (where that fails), 5 a case failed, or nothing was compared."""
        verdicts = self.counts.keys()
        if verdicts & set(FAILURES) or not self.compared:
            return SOME_FAILED
        if verdicts & set(REGRESSIONS):
            return REGRESSED
        return UNDECIDED if fail_on_inconclusive and INCONCLUSIVE in verdicts else FINE


@dataclass(frozen=True)
class _Timed:
    """A case whose times can be compared, before it is judged beside the others."""

    row: Row
    estimate: Estimate
    margin: float


def compare(base: Side, head: Side, terms: Terms) -> Comparison:
    """Every case that either side holds, judged."""
    impls = sides.several_impls((base, head))
    pairs = _pairs(sides.keyed(base, impls=impls), sides.keyed(head, impls=impls), terms)
    items = [_row(one, other, terms, same_subject=not base.label) for one, other in pairs]
    timed = [item for item in items if isinstance(item, _Timed)]
    verdicts = iter(rule.judge([t.estimate for t in timed], [t.margin for t in timed]))
    rows = [_judged(item, next(verdicts)) if isinstance(item, _Timed) else item for item in items]
    return Comparison(ordered(rows))


def quantity(record: Record) -> Quantity:
    """Look up what a record's number is."""
    return quantities.of(record.measure, record.quantity, record.unit)


def is_time(record: Record) -> bool:
    """True where a record's number is a time or a rate, which has noise."""
    return quantity(record).kind == "time"


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Rows with the most serious verdict first, and within one verdict those that cost more."""
    return sorted(rows, key=lambda row: (ORDER.index(row.verdict), -row.cost))


def relevant(record: Record) -> tuple[str, ...]:
    """Entries of the environment on which a quantity depends: all for a time, none for a count of operations."""
    gpu = was_gpu(record.device)
    if is_time(record):
        return (*environment.COMPARABLE, *(k for k in _KERNELS if gpu or k not in _GPU_ONLY))
    if record.unit == "B":
        return ("torch", "cuda", "threads", *(["gpu"] if gpu else []))
    return quantity(record).depends


def _pairs(base: Mapping[str, list[Record]], head: Mapping[str, list[Record]],
           terms: Terms) -> Iterable[tuple[list[Record], list[Record]]]:
    """Runs of the base and of the head by case: those of one environment together, what is left over by itself."""
    for key in dict.fromkeys([*base, *head]):
        ours, theirs = _by_environment(head.get(key, []), terms), _by_environment(base.get(key, []), terms)
        both = [where for where in ours if where in theirs]
        yield from ((theirs[where], ours[where]) for where in both)
        if not both:  # of several environments on one side, the last is compared with the other side's
            yield (list(theirs.values())[-1] if theirs else [], list(ours.values())[-1] if ours else [])


def _by_environment(runs: Sequence[Record], terms: Terms) -> dict[tuple[str, ...], list[Record]]:
    """The runs of each environment; of a code that changed between them, the last version's."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in runs:
        where = tuple(str(record.environment.get(key)) for key in relevant(record) if key not in terms.across)
        group = groups.setdefault(where, [])
        if group and _code(group[-1]) != _code(record):
            group.clear()
        group.append(record)
    return groups


def _code(record: Record) -> tuple[Any, ...]:
    return record.environment.get("commit"), record.environment.get("dirty"), record.impl, record.options


def _row(base: list[Record], head: list[Record], terms: Terms, *, same_subject: bool) -> Row | _Timed:
    if not base:
        return Row(None, head[-1], NEW, note="only the head has it")
    if (head or base)[-1].status in ("ok", _UNDECIDED, NOT_THERE) and (note := _inexact(base[-1])):
        return Row(base[-1], head[-1] if head else None, INCOMPARABLE, note=note)
    if not head:
        return Row(base[-1], None, INCOMPARABLE if terms.allow_missing else MISSING, note="only the base has it")
    one, other = base[-1], head[-1]
    if reason := _unlike(one, other, terms, same_subject):
        return Row(one, other, INCOMPARABLE, note=reason)
    if one.status != "ok" or other.status != "ok":
        return not_both_ran(one, other)
    note = f"impl {one.impl}, now {other.impl}" if same_subject and one.impl != other.impl else ""
    if not is_time(one):
        return replace(_exact(one, other, terms), note=note)
    return _timed(base, head, terms, note)


def _unlike(base: Record, head: Record, terms: Terms, same_subject: bool) -> str:
    """Why these must not be compared; empty where they may."""
    if base.unit != head.unit:
        return f"unit {base.unit}, now {head.unit}"
    reasons = [f"{key} {base.environment.get(key)}, now {head.environment.get(key)}" for key in relevant(head)
               if key not in terms.across and base.environment.get(key) != head.environment.get(key)]
    if same_subject:
        reasons += [f"option {key} {base.options[key]}, now {head.options[key]}" for key in base.options
                    if key in head.options and base.options[key] != head.options[key]]
    return "; ".join(reasons)


def _inexact(record: Record) -> str:
    """Why a number is neither a time nor exact, so that no rule here judges it; empty where one does."""
    if quantity(record).kind != "derived":
        return ""
    if record.unit == "1" and not quantities.is_known(record.measure, record.quantity):
        return (f"whether noise is in it, nobody here says: {record.measure} is not installed, or does not list"
                f" {record.quantity} in its QUANTITIES")
    return "it follows from measured times or free memory: compare the latency and memory records instead"


def not_both_ran(base: Record, head: Record) -> Row:
    """Return the row of a case that gave no number on at least one side."""
    if {base.status, head.status} in ({"ok", _UNDECIDED}, {_UNDECIDED}):
        sides = "both sides" if base.status == head.status else "the base" if head.status == "ok" else "the head"
        return Row(base, head, INCONCLUSIVE, note=f"its own run was inconclusive on {sides}")
    if base.status == "ok":
        return Row(base, head, BROKEN, note=f"{head.status}: {head.note}".removesuffix(": "))
    if head.status == "ok":
        return Row(base, head, NEW, note=base.note) if base.status == NOT_THERE else \
            Row(base, head, MENDED, note=f"was {base.status}")
    if base.status == head.status:
        as_before = not is_time(base) and base.status in _LIMITS
        return Row(base, head, SAME if as_before else INCOMPARABLE, note=f"{base.status} on both sides")
    return Row(base, head, INCOMPARABLE, note=f"{base.status} on the base, {head.status} on the head")


def _exact(base: Record, head: Record, terms: Terms) -> Row:
    assert base.value is not None
    assert head.value is not None
    ratio = head.value / base.value if base.value else None
    known = quantity(head)
    if known.kind == "exact":
        worse = (head.value > base.value) == (known.better == "less")
        verdict = SAME if base.value == head.value else CHANGED if known.better is None else WORSE if worse else BETTER
        return Row(base, head, verdict, ratio)
    apart, size = abs(head.value - base.value), max(abs(base.value), abs(head.value))
    whole = float(base.value).is_integer() and float(head.value).is_integer()
    allowed = 0.0 if whole else max(terms.tolerance * size, rounding(base.dtype))
    return Row(base, head, SAME if apart <= allowed else CHANGED, ratio)


def _timed(base: list[Record], head: list[Record], terms: Terms, note: str) -> Row | _Timed:
    one, other = base[-1], head[-1]
    row = Row(one, other, INCONCLUSIVE, note=note)
    for side, runs in (("base", base), ("head", head)):
        for value in [value for run in runs for value in (run.value, *run.samples) if value is not None]:
            if not _TINIEST < value < 1 / _TINIEST:
                return replace(row, verdict=INCOMPARABLE, note=f"the {side} holds {value:g} {one.unit}: it cannot be")
    ran = [[run for run in side if run.status == "ok"] for side in (base, head)]
    both = [rounds(one), rounds(other)]
    logs = [[math.log(run.value) for run in side if run.value] for side in ran]
    several = max(map(len, ran)) > 1
    if several and _groups(ran[0]) == _groups(ran[1]) != []:
        estimate, kind = rule.paired([b - a for a, b in zip(*logs, strict=True)]), "paired run"
    elif several:
        estimate, kind = rule.unpaired(*logs), "run"
    elif _groups(ran[0]) == _groups(ran[1]) != [] and len(both[0]) == len(both[1]):
        estimate, kind = rule.paired([b - a for a, b in zip(*both, strict=True)]), "pair"
    else:
        estimate, kind = rule.unpaired(*both), "round"
    assert one.value is not None
    seconds = one.value if one.unit == "s" else 1 / one.value
    known = terms.run_noise if kind == "round" else terms.noise
    noise = known.get(str(other.environment.get("machine")), 0.0)
    row = replace(row, ratio=math.exp(estimate.mean), units=f"{estimate.units} {kind}{'s' * (estimate.units != 1)}",
                  times=times(*(logs if several else both)))
    estimate = replace(estimate, mean=row.cost)
    return _Timed(row, estimate, rule.margin(terms.threshold, noise, terms.floor, seconds))


def times(base: Sequence[float], head: Sequence[float]) -> tuple[float, float]:
    """The geometric mean of each side, from the logarithms of its units."""
    return math.exp(math.fsum(base) / len(base)), math.exp(math.fsum(head) / len(head))


def rounds(record: Record) -> list[float]:
    """ln of the median of each round. A record that does not say its rounds is one round."""
    assert record.value is not None
    counts = record.detail.get("samples_per_round")
    if not isinstance(counts, list) or not counts or not all(type(c) is int and c > 0 for c in counts) \
            or sum(counts) != len(record.samples):
        return [math.log(record.value)]
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return [math.log(median(record.samples[end - count : end])) for end, count in zip(ends, counts, strict=True)]


def _groups(runs: Sequence[Record]) -> list[str]:
    """The groups in which these runs were timed in turn with others, in order; empty where one was timed alone.

    Round i of two records of one group are neighbours in time.
    """
    groups = [run.detail.get("group") for run in runs]
    return [group for group in groups if isinstance(group, str)] if all(isinstance(g, str) for g in groups) else []


def _judged(timed: _Timed, verdict: str) -> Row:
    """Return the row with its verdict and interval, in terms of the record's own quantity."""
    low, high = timed.estimate.interval()
    if quantity(timed.row.record).better == "more":
        low, high = -high, -low
    note = timed.row.note
    if verdict == INCONCLUSIVE and not timed.estimate.freedom:
        note = "; ".join(filter(None, [note, "one round on each side says nothing about noise: record more"]))
    return replace(timed.row, verdict=verdict, low=math.exp(low), high=exp(high), note=note,
                   margin=math.expm1(timed.margin))


def exp(value: float) -> float:
    """e to that power, infinite where there is no such number."""
    return math.exp(value) if value < 700 else math.inf
