"""Noise: what A/A rounds of one version say about a machine, and the smallest change that it can be trusted to show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import stdtrit

from softbench import records
from softbench.compare import rule
from softbench.gate.paired import Pair
from softbench.gate.store import FLOOR, ROUNDS, RUNS
from softbench.records import About, Point, Reading, Record
from softbench.stats import median


@dataclass(frozen=True)
class Noise:
    """Standard deviations of log times, which are shares of a time.

    Attributes:
        rounds: of the difference that one ABBA round of identical code shows.
        runs: of the median that one process shows, from process to process.
        units: rounds that were measured, over all cases.
        first: rounds of the gate's first look.
    """

    rounds: float
    runs: float
    units: int
    first: int

    @property
    def floor(self) -> float:
        """The noise floor: the standard error of a difference at the first look."""
        return self.rounds / math.sqrt(self.first)

    def detectable(self, rounds: int, threshold: float, looks: int = 1) -> float:
        """The smallest slowdown, a share, that so many rounds call slower 9 times in 10.

        It exceeds the margin by the half-width of the interval, and by what the mean strays 1 time in 10.
        """
        error = self.rounds / math.sqrt(rounds)
        reach = float(stdtrit(rounds - 1, 1 - rule.LEVEL / (2 * looks)) + stdtrit(rounds - 1, 0.9))
        return math.expm1(rule.margin(threshold, self.floor) + reach * error)


def measure(pair: Pair, rounds: int) -> Noise:
    """The noise of this machine, from rounds of a pair whose two sides are one version."""
    cases = list(range(len(pair.plan.jobs)))
    differences = [of_case for of_case in pair.measure(cases, rounds) if len(of_case) > 1]
    medians = [_medians(course.samples, course.per_round) for courses in pair.courses for course in courses
               if len(course.per_round) > 1]
    return Noise(_pooled(differences, about_zero=True), _pooled(medians), sum(map(len, differences)), pair.plan.first)


def as_records(noise: Noise, environment: dict[str, Any]) -> list[Record]:
    """The three numbers as records of the measure `doctor`."""
    detail = {"rounds": noise.units, "first_look": noise.first}
    here = records.origin(environment)
    return [records.make("doctor", Reading(quantity, value=value, detail=detail), About(), Point(), here)
            for quantity, value in ((FLOOR, noise.floor), (RUNS, noise.runs), (ROUNDS, noise.rounds))]


def _pooled(groups: Sequence[Sequence[float]], about_zero: bool = False) -> float:
    """One standard deviation for groups that each have a mean of their own, or a known mean of zero."""
    if not groups:
        return math.nan
    squares = sum(math.fsum((x - (0.0 if about_zero else statistics.fmean(group))) ** 2 for x in group)
                  for group in groups)
    return math.sqrt(squares / sum(len(group) - (not about_zero) for group in groups))


def _medians(samples: Sequence[float], per_round: Sequence[int]) -> list[float]:
    """ln of the median of each round, that is of each process."""
    ends = [sum(per_round[: i + 1]) for i in range(len(per_round))]
    return [math.log(median(samples[end - count : end])) for end, count in zip(ends, per_round, strict=True)]
