"""The search compares two attentions by latency in paired rounds, peak memory, or FLOPs in closed form.

    latency   rounds of both workloads in one process (`latency/timing.py`), d = ln of the ratio of their median times
    memory    ln of the ratio of the peaks of one call each, `softbench memory`'s own
    flops     ln of the ratio of the closed forms. A training step counts as three forwards (`latency/work.py`), so its
              crossing is that of the forward. An attention without a matrix product counts as 1 FLOP.

Each side is built and checked as every measured case is: against float64 on a small case, and for finite results.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from softbench.bench.programme import verdict
from softbench.bench.sweep import Job, Sweep
from softbench.case import Case, Shape
from softbench.machine import device
from softbench.measures import latency, memory
from softbench.measures.latency.timing import Unearned, paired
from softbench.plugins.contained import contained
from softbench.stats import median
from softbench.studies._over_n.grids import Grid
from softbench.studies.crossover import again
from softbench.studies.crossover.search import ATTENTION, BASELINE, Meter, Stopped
from softbench.subjects import OneAttention, witness
from softbench.subjects.workload import Workload

_MEMORY = memory.Settings(passes=1)
_SHORTEST = 1.0  # seconds that a case may take, however little is left of the budget


@dataclass
class Pair:
    """The two sides at one setting; `case` is that of the attention, its shape yet without tokens.

    Attributes:
        known: what a side cost at a grid, by name: the baseline is the same beside every attention.
        foreign: the largest share of the CPU that other processes had in a round, by tokens.
    """

    attention: OneAttention
    baseline: OneAttention
    case: Case
    timing: latency.Settings
    known: dict[tuple[str, Case], float] = field(default_factory=dict)
    foreign: dict[int, float] = field(default_factory=dict)

    def job(self, side: str, grid: Grid) -> Job:
        """Return one side at a grid of tokens."""
        subject = self.attention if side == ATTENTION else self.baseline
        shape = replace(self.case.shape, rows=grid[0], cols=grid[1])
        return Job(replace(self.case, spec=subject.spec, shape=shape, impl=subject.spec.impl or "auto"), subject)

    def misfit(self, grid: Grid) -> str:
        """Why one of the two cannot run on a grid; "" where both can."""
        shape: Shape = replace(self.case.shape, rows=grid[0], cols=grid[1])
        return self.attention.plugin.misfit(shape) or self.baseline.plugin.misfit(shape)


def meter(quantity: str, pair: Pair) -> Meter:
    """Return the meter of latency, memory or flops."""
    meters: dict[str, Callable[[Pair], Meter]] = {"latency": _Latency, "memory": _Memory, "flops": _Flops}
    return meters[quantity](pair)


class _Sides:
    """Runs something of a side, and turns whatever goes wrong into `Stopped`."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._sweep = Sweep("latency", latency, pair.timing, [])

    def _build(self, side: str, grid: Grid, until: float) -> Workload:
        seconds = max(_SHORTEST, until - time.perf_counter())
        return self._attempt(side, replace(self._sweep, timeout=seconds).prepare, self.pair.job(side, grid))

    def _attempt(self, side: str, action: Any, *arguments: Any) -> Any:
        try:
            with contained():
                return action(*arguments)
        except Unearned as error:
            baseline = error.workload.subject is self.pair.baseline
            raise Stopped(BASELINE if baseline else ATTENTION, *verdict(error)) from None
        except Exception as error:
            raise Stopped(side, *verdict(error)) from None


class _Latency(_Sides):
    exact = False

    def rounds(self, grid: Grid, seconds: float) -> Generator[float, None, None]:
        until = time.perf_counter() + seconds
        head = self._build(ATTENTION, grid, until)
        base = self._build(BASELINE, grid, until)
        rounds = paired(base, head, self.pair.timing)
        while True:
            ours = self._attempt(ATTENTION, next, rounds)
            self._disturbed(grid, ours[2])
            yield math.log(median(ours[1]) / median(ours[0]))

    def again(self, grids: Sequence[Grid], rounds: int, seconds: float) -> list[list[float]]:
        gc.collect()
        if device.is_gpu(self.pair.case.device):
            device.release()  # what the scan has held would be missing in the child
        jobs = [(self.pair.job(ATTENTION, grid), self.pair.job(BASELINE, grid)) for grid in grids]
        results = again.measure(jobs, self.pair.timing, rounds, seconds)
        for grid, (_, foreign) in zip(grids, results, strict=True):
            self._disturbed(grid, foreign)
        return [differences for differences, _ in results]

    def _disturbed(self, grid: Grid, foreign: float) -> None:
        tokens = grid[0] * grid[1]
        self.pair.foreign[tokens] = max(foreign, self.pair.foreign.get(tokens, 0.0))


class _Exact(_Sides):
    exact = True

    def again(self, grids: Sequence[Grid], rounds: int, seconds: float) -> list[list[float]]:
        raise AssertionError("what is exact need not be measured again")


class _Memory(_Exact):

    def rounds(self, grid: Grid, seconds: float) -> Generator[float, None, None]:
        until = time.perf_counter() + seconds
        ours, theirs = (self._peak(side, grid, until) for side in (ATTENTION, BASELINE))
        yield math.log(ours / theirs)

    def _peak(self, side: str, grid: Grid, until: float) -> float:
        job = self.pair.job(side, grid)
        key = ("memory", job.case)
        if side == ATTENTION or key not in self.pair.known:
            built = self._build(side, grid, until)
            reading = self._attempt(side, memory.measure, built, _MEMORY)[0]
            self._attempt(side, witness.examine, built)
            self.pair.known[key] = float(reading.value or 1.0)
        return self.pair.known[key]


class _Flops(_Exact):

    def rounds(self, grid: Grid, seconds: float) -> Generator[float, None, None]:
        ours, theirs = (self._attempt(side, self._count, self.pair.job(side, grid)) for side in (ATTENTION, BASELINE))
        yield math.log(ours / theirs)

    def _count(self, job: Job) -> float:
        return max(1.0, job.subject.closed_form(job.case))
