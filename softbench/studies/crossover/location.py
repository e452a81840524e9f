"""The length at which a fitted difference is 0, with its 95 % interval.

Around a bracket, d = ln(cost of the attention / cost of the baseline) is close to a straight line in x = ln N, as
costs are close to powers of N there. Let probe i have n_i rounds with the mean d_i. The line a + b (x - m), with m the
mean of x, is fitted with the weights n_i; its errors come from s^2, the variance of rounds about the means of their
probes, pooled over the probes that are used, with f = sum(n_i - 1) degrees of freedom. Rounds of one probe share what
the memory of a process happens to look like, so means scatter more about the line than rounds do about means; and no
cost is a power of N exactly. Both show in the lack of fit

    F = sum n_i (d_i - a - b (x_i - m))^2 / ((k - 2) s^2)        for k > 2 probes.

Where F > 1, s^2 F takes the place of s^2, with k - 2 degrees of freedom. The interval holds all x at which the t test
does not reject d = 0 (Fieller, 1954):

    (a + b u)^2 <= t^2 s^2 (1 / sum n_i + u^2 / sum n_i (x_i - m)^2),        u = x - m.

Where b is not significant that set has no ends, and the interval is from the shortest to the longest of these probes.
With P processes that all measured these probes, d_i is the mean over processes and n_i = P. Besides, each process p has
a line of its own with the level L_p and the slope b_p; what they differ by is what a process keeps for its life. The
interval also holds all x at which a t test over processes, with P - 1 degrees of freedom, does not reject that the mean
of L_p + b_p u is 0:

    (L + b u)^2 <= t^2 (v_L + 2 u v_Lb + u^2 v_b) / P,        v the variances and covariance over processes.

As the line may be too straight, the interval is extended to the one of the same width around the zero of a parabola
through the same probes; and it is never narrower than from the nearest feasible length below the estimate to the one
above.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy.special import stdtrit

from softbench.compare import rule
from softbench.studies._over_n.grids import Grids
from softbench.studies.crossover.search import Bracket, Probe

_FEWEST = 5  # probes of a parabola

Zero = tuple[float, float, float]  # where a line is 0, and the ends of its interval


@dataclass(frozen=True)
class Crossing:
    """N* and its interval. `fitted` is the number of probes in the fit, 0 where the bracket is all that is known;
    `processes` how many measured them."""

    tokens: float
    low: float
    high: float
    rising: bool
    fitted: int
    processes: int = 1


def locate(bracket: Bracket, used: Sequence[Probe], grids: Grids, *, exact: bool,
           again: Sequence[Mapping[int, Sequence[float]]] = ()) -> Crossing:
    """Where within a closed bracket the sign changes.

    Args:
        used: the probes that the line is fitted to, those at the ends of the bracket among them.
        again: the differences that further processes gave, by tokens.
    """
    assert bracket.low is not None
    assert bracket.high is not None
    ends = [p for p in used if p.tokens in (bracket.low, bracket.high)]
    processes = 1 + len(again)
    if exact:
        return Crossing(math.exp(_between(ends)), bracket.low, bracket.high, bracket.rising, 0)
    xs = [math.log(p.tokens) for p in used]
    if again:
        zero = over_processes(xs, [[fmean(line[p.tokens]) for p in used]
                                   for line in ({p.tokens: p.differences for p in used}, *again)])
    else:
        zero = fieller(xs, [p.differences for p in used])
    if zero is None:
        return Crossing(math.exp(_between(ends)), used[0].tokens, used[-1].tokens, bracket.rising, 0, processes)
    first, last = math.log(grids.low), math.log(grids.high)
    estimate, low, high = (math.exp(min(max(x, first), last)) for x in zero)
    below = grids.nearest(estimate, below=math.floor(estimate) + 1)
    above = grids.nearest(estimate, above=math.ceil(estimate) - 1)
    low = min([low, *([below[0] * below[1]] if below else [])])
    high = max([high, *([above[0] * above[1]] if above else [])])
    return Crossing(estimate, low, high, bracket.rising, len(used), processes)


def over_processes(xs: Sequence[float], means: Sequence[Sequence[float]]) -> Zero | None:
    """As `fieller`, from the mean difference of each of several processes at each probe: `means[process][probe]`."""
    each = list(zip(*means, strict=True))
    pooled = _line(xs, each)
    if pooled is None:
        return None
    count, centre = len(means), fmean(xs)
    lines = np.polynomial.polynomial.polyfit(np.asarray(xs) - centre, np.asarray(means).T, 1)  # [2, P]
    bound = float(stdtrit(count - 1, 1 - rule.LEVEL / 2)) ** 2 / count
    (constant, middle), (_, square) = np.outer(*2 * [lines.mean(1)]) - bound * np.cov(lines)
    ends = _ends(centre, square, middle, constant)
    if ends is None:
        return None
    zero, low, high = pooled
    return _extended(xs, each, (zero, min(low, ends[0]), max(high, ends[1])))


def fieller(xs: Sequence[float], rounds: Sequence[Sequence[float]]) -> Zero | None:
    """The zero of the line through these probes and its interval; None where the slope may be 0."""
    zero = _line(xs, rounds)
    return None if zero is None else _extended(xs, rounds, zero)


def _line(xs: Sequence[float], rounds: Sequence[Sequence[float]]) -> Zero | None:
    counts = [len(r) for r in rounds]
    means = [sum(r) / len(r) for r in rounds]
    total, freedom = sum(counts), sum(n - 1 for n in counts)
    if len(xs) < 2 or freedom < 1:
        return None
    centre = sum(n * x for n, x in zip(counts, xs, strict=True)) / total
    spread = sum(n * (x - centre) ** 2 for n, x in zip(counts, xs, strict=True))
    level = sum(n * d for n, d in zip(counts, means, strict=True)) / total
    slope = sum(n * (x - centre) * d for n, x, d in zip(counts, xs, means, strict=True)) / spread
    within = sum((d - mean) ** 2 for r, mean in zip(rounds, means, strict=True) for d in r) / freedom
    lack = sum(n * (d - level - slope * (x - centre)) ** 2 for n, x, d in zip(counts, xs, means, strict=True))
    bound = float(stdtrit(freedom, 1 - rule.LEVEL / 2)) ** 2 * within
    if len(xs) > 2 and lack > (len(xs) - 2) * within:
        bound = float(stdtrit(len(xs) - 2, 1 - rule.LEVEL / 2)) ** 2 * lack / (len(xs) - 2)
    ends = _ends(centre, slope**2 - bound / spread, level * slope, level**2 - bound / total)
    return None if ends is None else (centre - level / slope, *ends)


def _ends(centre: float, square: float, middle: float, constant: float) -> tuple[float, float] | None:
    """The x where square u^2 + 2 middle u + constant <= 0 ends, u = x - centre; None where it has no ends."""
    if square <= 0:
        return None
    root = math.sqrt(max(0.0, middle**2 - square * constant))
    return centre + (-middle - root) / square, centre + (-middle + root) / square


def _extended(xs: Sequence[float], rounds: Sequence[Sequence[float]], straight: Zero) -> Zero:
    """Return the interval with the one of the same width around the zero of a parabola."""
    zero, low, high = straight
    shift = _bent(xs, [len(r) for r in rounds], [fmean(r) for r in rounds], zero) - zero
    return zero, min(low, low + shift), max(high, high + shift)


def _bent(xs: Sequence[float], counts: Sequence[int], means: Sequence[float], zero: float) -> float:
    """The zero next to `zero` of a parabola through the probes; `zero` itself where they are few or it has none."""
    if len(xs) < _FEWEST:
        return zero
    roots = np.polynomial.Polynomial.fit(xs, means, 2, w=np.sqrt(counts)).roots()
    real = [float(root.real) for root in roots if abs(root.imag) < 1e-9]
    return min((root for root in real if min(xs) <= root <= max(xs)), key=lambda root: abs(root - zero), default=zero)


def _between(ends: Sequence[Probe]) -> float:
    """ln N where the straight line through the ends of a bracket is 0; its middle where one of them has no value."""
    (a, b), (low, high) = (math.log(p.tokens) for p in ends), (p.estimate for p in ends)
    if low is None or high is None:
        return (a + b) / 2
    return a + (b - a) * low.mean / (low.mean - high.mean)
