"""Measures attentions at one length after the other: softbench's own latency, interleaved over them, and memory.

An attention that ran out of memory or time at a length is not run at a longer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from softbench.bench.costs import disturbance
from softbench.bench.sweep import Job, Sweep
from softbench.case import Shape, most_square
from softbench.contracts.study import Finding
from softbench.measures import latency, memory
from softbench.studies._over_n.setting import Setting, finding
from softbench.subjects import OneAttention

_GONE = ("oom", "timeout")
_PARTS = {1: (1.0,), 2: (1.0, 1.5), 4: (1.0, 1.25, 1.5, 1.75)}


def grid(low: int, high: int, per_doubling: int) -> list[int]:
    """Lengths from `low` to `high`: powers of two times `low`, and equal steps between them; N is near to a square."""
    lengths = []
    while low <= high:
        lengths += [int(low * part) for part in _PARTS[per_doubling] if low * part <= high]
        low *= 2
    return list(dict.fromkeys(lengths))


@dataclass(frozen=True)
class Ladder:
    """The lengths of one study, measured in ascending order.

    Attributes:
        costs: "latency", "memory" or both.
        timeout: seconds that a case may take.
    """

    setting: Setting
    batch: int
    costs: Sequence[str]
    latency: latency.Settings
    timeout: float
    _gone: dict[tuple[str, str, tuple[str, str]], tuple[int, str]] = field(default_factory=dict)

    def measure(self, point: tuple[str, str], tokens: int) -> list[Finding]:
        """The numbers of all attentions at a length; a row that says why for each that has none."""
        shape = self.setting.shape(self.batch, most_square(tokens))
        findings = []
        for cost in self.costs:
            left = [one for one in self.setting.subjects if (cost, one.spec.label, point) not in self._gone]
            findings += [self._out(cost, one, point, shape) for one in self.setting.subjects if one not in left]
            findings += self._run(cost, left, point, shape)
        return findings

    def _run(self, cost: str, chosen: list[OneAttention], point: tuple[str, str], shape: Shape) -> list[Finding]:
        module, settings = (latency, self.latency) if cost == "latency" else (memory, memory.Settings(passes=1))
        jobs = [Job(self.setting.case(one, point, shape), one) for one in chosen]
        sweep = Sweep(cost, module, settings, jobs, timeout=self.timeout)
        records = [record for _, group in sweep for record in group]
        for record in records:
            if record.status in _GONE:
                self._gone[cost, str(record.label), point] = (shape.tokens, record.status)
        notes = [disturbance(record.detail) for record in records]
        return [finding(record, {"disturbed": note} if note else {})
                for record, note in zip(records, notes, strict=True)]

    def _out(self, cost: str, one: OneAttention, point: tuple[str, str], shape: Shape) -> Finding:
        tokens, status = self._gone[cost, one.spec.label, point]
        quantity, unit = ("latency", "s") if cost == "latency" else ("peak_memory", "B")
        what = "memory ran out" if status == "oom" else "it took too long"
        return self.setting.finding(one, point, shape, quantity=quantity, unit=unit, status=status,
                                    note=f"not run: {what} at {tokens:,} tokens")
