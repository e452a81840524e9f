"""Concludes from the measured lengths of one attention: exponents, the memory's end, and costs beyond.

The length at which memory runs out is where inputs + parameters + peak, fitted by `held.py`, reach the limit. `verify`
runs one call a little below it and one a little above, each in a child process that has the limit (`bench/trial.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from softbench import plugins
from softbench.bench import trial as _trial
from softbench.case import MAX_TOKENS, Shape, most_square
from softbench.contracts.study import Finding
from softbench.records import Record
from softbench.studies._over_n.grids import Grids
from softbench.studies._over_n.setting import Setting, records_at
from softbench.studies.scaling import claims
from softbench.studies.scaling.growth import FEWEST, Growth, fit
from softbench.studies.scaling.held import end
from softbench.subjects import OneAttention

EXPONENT, LIMIT, OUT_OF_MEMORY, TRIAL = "exponent", "memory_limit", "oom_tokens", "trial_memory"
BEYOND = {"latency": "latency_extrapolated", "memory": "memory_extrapolated"}
_QUANTITIES = {"latency": ("latency", "s"), "memory": ("peak_memory", "B")}
_BELOW, _ABOVE = 0.9, 1.1  # of the predicted length: where the boundary is looked for
_CURVE = 48  # points of a drawn curve
_FAR = 8.0  # times the longest length, beyond which a prediction says how far it reaches


@dataclass(frozen=True)
class Question:
    """Asks for more than exponents.

    Attributes:
        limit: bytes; None takes what is free on the device when it is needed.
        beyond: lengths to extrapolate to.
    """

    costs: Sequence[str]
    beyond: Sequence[int]
    limit: int | None
    verify: bool
    batch: int
    timeout: float


@dataclass(frozen=True)
class Conclusion:
    """The conclusions about one attention at one point."""

    setting: Setting
    subject: OneAttention
    point: tuple[str, str]
    question: Question

    def run(self, rows: Sequence[Record]) -> list[Finding]:
        """Exponents and what follows from them, from the records of the lengths."""
        mine = records_at(rows, self.subject.spec.label, self.point)
        findings = []
        for cost in self.question.costs:
            quantity, _ = _QUANTITIES[cost]
            records = [record for record in mine if record.quantity == quantity]
            growth = _fitted([(float(r.tokens), r.value) for r in records if _usable(r)])
            findings += [self._exponent(cost, growth, records), *self._beyond(cost, growth)]
            if cost == "memory":
                findings += self._end(records)
        return findings

    def _exponent(self, cost: str, growth: Growth | None, records: Sequence[Record]) -> Finding:
        name = self.subject.spec.name if hasattr(self.subject.spec, "name") else self.subject.attention
        claim = str(plugins.facts("attention", name).get("COMPLEXITY", ""))
        claimed = {"claims": f"O({claim})" if claim else "-"}
        coords = {"cost": cost}
        if growth is None:
            status, why = _without(records)
            return self._finding(EXPONENT, None, status=status, note=why, coords=coords, detail=claimed)
        curve = [[tokens, growth.cost(tokens)] for tokens in _spaced(*growth.lengths, growth.breaks)]
        disturbed = sum("disturbed" in record.detail for record in records)
        notes = [claims.course(growth)]
        if disturbed:
            notes.append(f"other processes disturbed {disturbed} of {len(records)} lengths")
        detail: dict[str, Any] = claimed | {
            "printed": claims.measured(growth), "verdict": claims.verdict(claim, growth, cost) or "-",
            "course": claims.course(growth), "sentence": claims.sentence(claim, growth, cost),
            "ci95": list(growth.interval), "claimed": claims.claimed(claim, claims.middle(growth)),
            "kind": growth.kind, "breaks": list(growth.breaks), "exponents": list(growth.exponents),
            "intervals": [list(interval) for interval in growth.intervals], "scatter": growth.scatter,
            "lengths": growth.count, "curve": curve}
        return self._finding(EXPONENT, growth.exponent, note="; ".join(notes), coords=coords, detail=detail)

    def _beyond(self, cost: str, growth: Growth | None) -> list[Finding]:
        unit = _QUANTITIES[cost][1]
        if growth is None:
            return []
        note = f"extrapolated from N = {growth.lengths[1]:,.0f} by {claims.measured(growth)}"
        return [self._finding(BEYOND[cost], growth.cost(tokens), unit=unit, note=note, grid=most_square(tokens),
                              detail={"ci95": list(growth.cost_interval(tokens))}) for tokens in self.question.beyond]

    def _end(self, records: Sequence[Record]) -> list[Finding]:
        """Where memory should run out, and what a child process says of it."""
        limit = self.question.limit or _trial.free(self.setting.device)
        usable = sorted((float(r.tokens), _bytes(r)) for r in records if _usable(r))
        if len(usable) < FEWEST or limit is None:
            return []
        predicted = end([n for n, _ in usable], [held for _, held in usable], limit)
        detail: dict[str, Any] = {"limit": limit, "limited_by": "given" if self.question.limit else "free now",
                                  "verified": "not asked for"}
        known = self._finding(LIMIT, float(limit), unit="B", detail=detail)
        if not 1 <= predicted <= MAX_TOKENS:
            note = f"beyond {MAX_TOKENS:,} tokens" if predicted > 1 else "parameters and the like alone take more"
            return [known, self._finding(OUT_OF_MEMORY, None, status="not_run", note=note, detail=detail)]
        far = predicted / usable[-1][0]
        note = f"{far:,.0f} times the longest length measured" if far > _FAR else ""
        trials = self._verify(predicted, limit, detail) if self.question.verify else []
        return [known, self._finding(OUT_OF_MEMORY, math.floor(predicted), note=note, detail=detail), *trials]

    def _verify(self, predicted: float, limit: int, detail: dict[str, Any]) -> list[Finding]:
        """A call on either side of the prediction; puts the outcome into `detail["verified"]`."""
        trials, words, right = [], [], []
        for share, hoped in ((_BELOW, "ok"), (_ABOVE, "oom")):
            grid = Grids(1, MAX_TOKENS, lambda grid: self.subject.plugin.misfit(self._shape(grid))).nearest(
                predicted * share)
            if grid is None:
                continue
            shape = self._shape(grid)
            case = self.setting.case(self.subject, self.point, shape)
            trial = _trial.memory(case, self.subject, limit, self.question.timeout)
            outcome = {"ok": "fits", "oom": "does not fit"}.get(trial.status, trial.status)
            words.append(f"{shape.tokens:,} {outcome}")
            right.append(trial.status == hoped)
            trials.append(self._finding(TRIAL, trial.held, unit="B", status=trial.status, note=trial.note,
                                        grid=shape.grid, detail={"limit": limit}))
        clear = len(trials) == len(right) == 2 and all(trial.status in ("ok", "oom") for trial in trials)
        judged = "confirmed" if right == [True, True] else "refuted" if clear else "undecided"
        detail["verified"] = f"{judged}: {', '.join(words)}"
        return trials

    def _shape(self, grid: tuple[int, int]) -> Shape:
        return self.setting.shape(self.question.batch, grid)

    def _finding(self, quantity: str, value: float | None, *, grid: tuple[int, int] | None = None,
                 **more: Any) -> Finding:
        return self.setting.finding(self.subject, self.point, self._shape(grid or (1, 1)), there=grid is not None,
                                    quantity=quantity, value=value, **more)


def _usable(record: Record) -> bool:
    return record.status == "ok" and record.value is not None and record.value > 0


def _bytes(record: Record) -> float:
    """Bytes that the call and what it is given hold; in training modes, a gradient of the output's size among them."""
    detail, gradients = record.detail, 0 if record.mode == "forward" else 1
    return float(record.value or 0) + detail["inputs"] + detail["parameters"] + gradients * detail["output"]


def _fitted(points: Sequence[tuple[float, float | None]]) -> Growth | None:
    """The growth over these lengths; None where they are too few."""
    known = sorted((tokens, cost) for tokens, cost in points if cost is not None)
    if len({tokens for tokens, _ in known}) < FEWEST:
        return None
    return fit([tokens for tokens, _ in known], [cost for _, cost in known])


def _without(records: Sequence[Record]) -> tuple[str, str]:
    """Status and note where there is no exponent."""
    usable = sum(map(_usable, records))
    reasons = dict.fromkeys(f"{r.status}: {r.note}" for r in records if not _usable(r))
    why = f" ({next(iter(reasons))})" if reasons else ""
    note = f"{usable} of {len(records)} lengths gave a number, and a slope needs {FEWEST}{why}"
    statuses = [record.status for record in records if not _usable(record)]
    return (statuses[0] if statuses and not usable else "not_run"), note


def _spaced(low: float, high: float, breaks: Sequence[float]) -> list[float]:
    """Return lengths between two, evenly in their logarithm, the breaks among them."""
    even = [low * (high / low) ** (i / (_CURVE - 1)) for i in range(_CURVE)]
    return sorted({*even, *(b for b in breaks if low < b < high)})
