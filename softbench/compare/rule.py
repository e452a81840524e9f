"""The rule: rounds of two sides become an estimate, an interval and a verdict. Pure functions of numbers, no records.

A difference is d = ln(time of head / time of base): 0 is no change, ln 1.1 is 10 % slower. The independent units are
rounds, or whole runs, never the samples within one, which share whatever the machine did at that moment. The derivation
of every step is in docs/regression.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

LEVEL = 0.05  # of the interval of one case: it holds the true difference 95 times in 100
FALSE_DISCOVERIES = 0.05  # the share of "slower" (or "faster") verdicts that may be wrong, over all cases
FASTER, SAME, SLOWER, INCONCLUSIVE = "faster", "same", "slower", "inconclusive"


@dataclass(frozen=True)
class Estimate:
    """The mean difference over independent units, and how well it is known.

    Attributes:
        error: standard error of the mean; infinite where one unit says nothing about it.
        freedom: degrees of freedom of that error; 0 where it is infinite.
        units: how many there are on the side that has fewer.
    """

    mean: float
    error: float
    freedom: float
    units: int

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the t interval that misses the true difference with probability `level`."""
        if not self.freedom:
            return -math.inf, math.inf
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, 1 - level / 2)) * self.error
        return self.mean - half, self.mean + half

    def above(self, bound: float) -> float:
        """The p value of a one-sided t test: how likely so large a mean is where the true one is at most `bound`."""
        if not self.freedom:
            return 1.0
        if self.error == 0:
            return 0.0 if self.mean > bound else 1.0
        from scipy.special import stdtr

        return float(stdtr(self.freedom, (bound - self.mean) / self.error))

    def below(self, bound: float) -> float:
        """As `above`, for a true difference of at least `bound`."""
        return Estimate(-self.mean, self.error, self.freedom, self.units).above(-bound)


def paired(differences: Sequence[float]) -> Estimate:
    """The estimate from rounds that ran both sides: one difference a round, n - 1 degrees of freedom."""
    count = len(differences)
    mean = statistics.fmean(differences)
    if count == 1:
        return Estimate(mean, math.inf, 0.0, 1)
    return Estimate(mean, math.sqrt(statistics.variance(differences, mean) / count), count - 1.0, count)


def unpaired(base: Sequence[float], head: Sequence[float]) -> Estimate:
    """The estimate from log times that were not taken side by side: Welch's t, with Satterthwaite's freedom.

    A side with one unit borrows the variance of the other.
    """
    mean = statistics.fmean(head) - statistics.fmean(base)
    units = min(len(base), len(head))
    if len(base) == len(head) == 1:
        return Estimate(mean, math.inf, 0.0, 1)
    if units == 1:
        several = base if len(base) > 1 else head
        return Estimate(mean, math.sqrt(statistics.variance(several) * (1 + 1 / len(several))), len(several) - 1.0, 1)
    parts = [(statistics.variance(side) / len(side), len(side) - 1) for side in (base, head)]
    square = sum(part for part, _ in parts)
    if square == 0:
        return Estimate(mean, 0.0, float(len(base) + len(head) - 2), units)
    shares = sum((part / square) ** 2 / freedom for part, freedom in parts)
    return Estimate(mean, math.sqrt(square), 1 / shares, units)


def margin(threshold: float, noise: float = 0.0, floor: float = 0.0, base: float = math.inf) -> float:
    """D = ln(1 + max(threshold, 2 noise, floor / base)): the smallest difference that counts.

    Args:
        threshold, noise: parts of one: what the user cares about, and the noise floor of this machine.
        floor, base: seconds: a change too small to matter whatever its ratio, and the time of the base.
    """
    return math.log1p(max(threshold, 2 * noise, floor / base))


def benjamini_hochberg(p_values: Sequence[float], q: float = FALSE_DISCOVERIES) -> list[bool]:
    """Which hypotheses are rejected so that at most a share q of the rejections is expected to be false.

    With the m p values in ascending order, all up to the last i with p_i <= q i / m (Benjamini and Hochberg, 1995).
    """
    count, bound = len(p_values), -1.0
    for rank, p in enumerate(sorted(p_values), 1):
        if p <= q * rank / count:
            bound = p
    return [p <= bound for p in p_values]


def judge(estimates: Sequence[Estimate], margins: Sequence[float], looks: int = 1) -> list[str]:
    """Return the verdict on each case: slower, faster, same or inconclusive.

    Slower: the whole interval lies above the margin, and the case stands Benjamini-Hochberg over all cases. Faster: the
    same below. Same: the whole interval lies within the margins.

    Args:
        looks: how often the data may be looked at before rounds end; each look gets its part of both error rates.
    """
    slower, faster = ([*map(bool, benjamini_hochberg(p, FALSE_DISCOVERIES / looks))] for p in (
        [e.above(m) for e, m in zip(estimates, margins, strict=True)],
        [e.below(-m) for e, m in zip(estimates, margins, strict=True)]))
    verdicts = []
    for i, (estimate, bound) in enumerate(zip(estimates, margins, strict=True)):
        low, high = estimate.interval(LEVEL / looks)
        if low > bound and slower[i]:
            verdicts.append(SLOWER)
        elif high < -bound and faster[i]:
            verdicts.append(FASTER)
        else:
            verdicts.append(SAME if -bound < low and high < bound else INCONCLUSIVE)
    return verdicts


def looks(first: int, cap: int) -> int:
    """How many looks there are when rounds start at `first` and double until `cap`."""
    return 1 if first >= cap else 1 + looks(2 * first, cap)


@dataclass(frozen=True)
class Settled:
    """Holds what `settle` found on one case; `verdict` is empty where not one round could be measured."""

    verdict: str
    estimate: Estimate | None
    differences: list[float]
    margin: float


def settle(measure: Callable[[list[int], int], Sequence[Sequence[float]]], margin_of: Callable[[int], float],
           cases: int, first: int = 6, cap: int = 24) -> list[Settled]:
    """Measure rounds until every case is decided or has had `cap` of them, doubling those that are inconclusive.

    A verdict once given stays, though it would not stand Benjamini-Hochberg beside what later looks find of others.

    Args:
        measure: `measure(cases, rounds)` runs further rounds of these cases and gives the differences of each. A case
            that gives fewer than asked for is not asked again.
        margin_of: the margin of a case, once it has been measured.
        cases: how many there are; they are called 0, 1, and so on.
        first, cap: rounds before the first look, and the most rounds.
    """
    differences: list[list[float]] = [[] for _ in range(cases)]
    verdicts: dict[int, str] = {}
    still, rounds = list(range(cases)), min(first, cap)
    while True:
        further = rounds - max((len(differences[i]) for i in still), default=rounds)
        for i, new in zip(still, measure(still, further), strict=True):
            differences[i] += new
        known = [i for i in range(cases) if differences[i]]
        estimates, margins = [paired(differences[i]) for i in known], [margin_of(i) for i in known]
        judged = dict(zip(known, judge(estimates, margins, looks(first, cap)), strict=True))
        verdicts |= {i: verdict for i, verdict in judged.items() if verdicts.get(i, INCONCLUSIVE) == INCONCLUSIVE}
        still = [i for i in still if verdicts.get(i) == INCONCLUSIVE and len(differences[i]) == rounds]
        if not still or rounds >= cap:
            break
        rounds = min(2 * rounds, cap)
    outcome = dict(zip(known, zip(estimates, margins, strict=True), strict=True))
    return [Settled(verdicts[i], outcome[i][0], differences[i], outcome[i][1]) if i in outcome else
            Settled("", None, [], math.nan) for i in range(cases)]
