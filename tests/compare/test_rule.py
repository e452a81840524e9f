"""The rule against scipy's own tests and against arithmetic done by hand; and what an adversary would feed it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats
from scipy.special import stdtrit

from softbench.compare import rule
from softbench.compare.rule import FASTER, INCONCLUSIVE, SAME, SLOWER, Estimate


def drawn(seed: int, count: int, mean: float = 0.0, spread: float = 1.0) -> list[float]:
    source = random.Random(seed)
    return [source.gauss(mean, spread) for _ in range(count)]


@pytest.mark.parametrize("count", [2, 3, 10, 50])
def test_paired_is_the_one_sample_t_test(count: int) -> None:
    found = drawn(count, count, mean=0.3)
    estimate = rule.paired(found)
    theirs = stats.ttest_1samp(found, 0.1, alternative="greater")
    assert estimate.above(0.1) == pytest.approx(theirs.pvalue, rel=1e-9)
    assert estimate.below(0.1) == pytest.approx(1 - theirs.pvalue, rel=1e-9)
    interval = stats.ttest_1samp(found, 0.0).confidence_interval(0.95)
    assert estimate.interval() == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert estimate.units == count


@pytest.mark.parametrize(("base", "head"), [(5, 5), (3, 12), (2, 2)])
def test_unpaired_is_welchs_t_test(base: int, head: int) -> None:
    one, other = drawn(1, base), drawn(2, head, mean=0.5, spread=3.0)
    estimate = rule.unpaired(one, other)
    theirs = stats.ttest_ind(other, one, equal_var=False, alternative="greater")
    assert estimate.above(0.0) == pytest.approx(theirs.pvalue, rel=1e-9)
    assert estimate.freedom == pytest.approx(theirs.df, rel=1e-9)
    assert estimate.units == min(base, head)


def test_a_side_with_one_unit_borrows_the_variance_of_the_other() -> None:
    several = drawn(3, 6)
    for estimate in (rule.unpaired(several, [0.2]), rule.unpaired([0.2], several)):
        assert estimate.error == pytest.approx(math.sqrt(np.var(several, ddof=1) * (1 + 1 / 6)))
        assert (estimate.freedom, estimate.units) == (5, 1)


@pytest.mark.parametrize("estimate", [rule.paired([0.7]), rule.unpaired([0.0], [0.7])])
def test_one_unit_never_decides(estimate: Estimate) -> None:
    assert estimate.interval() == (-math.inf, math.inf)
    assert estimate.above(0.0) == 1.0
    assert rule.judge([estimate], [0.01]) == [INCONCLUSIVE]


@pytest.mark.parametrize(("value", "verdict"), [(0.0, SAME), (0.02, SLOWER), (-0.02, FASTER), (0.01, INCONCLUSIVE)])
def test_units_that_are_all_equal_have_an_interval_of_one_point(value: float, verdict: str) -> None:
    for estimate in (rule.paired([value] * 4), rule.unpaired([1.0] * 3, [1.0 + value] * 2)):
        assert estimate.interval() == pytest.approx((value, value))
        assert rule.judge([Estimate(value, 0.0, estimate.freedom, 3)], [0.01]) == [verdict]


def test_the_margin_is_the_largest_of_its_three_reasons() -> None:
    assert rule.margin(0.05) == pytest.approx(math.log(1.05))
    assert rule.margin(0.05, noise=0.04) == pytest.approx(math.log(1.08))
    assert rule.margin(0.05, noise=0.02, floor=1e-6, base=1e-5) == pytest.approx(math.log(1.1))
    assert rule.margin(0.0) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_benjamini_hochberg_agrees_with_scipy(seed: int) -> None:
    source = random.Random(seed)
    p = [source.random() ** 4 for _ in range(40)] + [0.01] * 3
    assert rule.benjamini_hochberg(p, 0.05) == [bool(a <= 0.05) for a in stats.false_discovery_control(p)]


def test_benjamini_hochberg_of_nothing_and_of_ties() -> None:
    assert rule.benjamini_hochberg([]) == []
    assert rule.benjamini_hochberg([0.05] * 10) == [True] * 10
    assert rule.benjamini_hochberg([0.006] + [1.0] * 9) == [False] * 10


def test_a_slower_case_alone_is_slower_and_among_many_others_must_stand_out_more() -> None:
    hit = Estimate(0.08, 0.010, 9, 10)  # two intervals above a margin of 3 %
    idle = Estimate(0.0, 0.001, 9, 10)
    assert rule.judge([hit], [0.03]) == [SLOWER]
    weak = Estimate(0.055, 0.010, 9, 10)
    assert weak.interval()[0] > 0.03
    assert rule.judge([weak], [0.03]) == [SLOWER]
    assert rule.judge([weak, *[idle] * 40], [0.03] * 41) == [INCONCLUSIVE, *[SAME] * 40]
    assert rule.judge([hit, *[idle] * 20], [0.03] * 21)[0] == SLOWER


def test_faster_mirrors_slower() -> None:
    estimates = [rule.paired(drawn(seed, 6, mean=m, spread=0.01)) for seed, m in enumerate((0.3, 0.01, 0.0, 0.05))]
    mirrored = [Estimate(-e.mean, e.error, e.freedom, e.units) for e in estimates]
    swapped = {SLOWER: FASTER, FASTER: SLOWER}
    assert rule.judge(mirrored, [0.02] * 4) == [swapped.get(v, v) for v in rule.judge(estimates, [0.02] * 4)]


def test_more_looks_widen_the_interval() -> None:
    estimate = Estimate(0.06, 0.010, 5, 6)
    assert rule.judge([estimate], [0.03]) == [SLOWER]
    assert rule.judge([estimate], [0.03], looks=3) == [INCONCLUSIVE]


@pytest.mark.parametrize(("first", "cap", "count"), [(6, 24, 3), (6, 6, 1), (8, 4, 1), (1, 16, 5), (6, 20, 3)])
def test_looks(first: int, cap: int, count: int) -> None:
    assert rule.looks(first, cap) == count


class Bench:
    """Cases with a fixed difference and noise; counts what it was asked for."""

    def __init__(self, means: Sequence[float], spread: float, failing: int = -1) -> None:
        self.source, self.means, self.spread, self.failing = random.Random(0), means, spread, failing
        self.asked: list[tuple[list[int], int]] = []

    def __call__(self, cases: list[int], rounds: int) -> list[list[float]]:
        self.asked.append((list(cases), rounds))
        return [[] if i == self.failing else [self.source.gauss(self.means[i], self.spread) for _ in range(rounds)]
                for i in cases]


def test_settle_measures_the_undecided_again_and_doubles() -> None:
    bench = Bench([0.0, 0.5, 0.028], 0.02)
    found = rule.settle(bench, lambda i: 0.03, 3)
    assert [case.verdict for case in found] == [SAME, SLOWER, INCONCLUSIVE]
    assert bench.asked[0] == ([0, 1, 2], 6)
    assert [rounds for _, rounds in bench.asked] == [6, 6, 12]
    assert bench.asked[-1][0] == [2]
    assert [len(case.differences) for case in found][1:] == [6, 24]


def test_a_verdict_once_given_stays() -> None:
    """Of three cases at two looks, the first needs rank 2 of Benjamini-Hochberg, which the second lends it at first."""
    first = [0.048, 0.072] * 3
    rounds = {0: [first], 1: [first, [-0.9, -0.7] * 3], 2: [[0.0, 0.001] * 3]}
    estimate = rule.paired(first)
    margins = [estimate.mean - float(stdtrit(5, 1 - p)) * estimate.error for p in (0.011, 0.014)] + [0.03]
    wanted: list[list[int]] = []

    def measure(cases: list[int], count: int) -> list[list[float]]:
        wanted.append(cases)
        return [rounds[case].pop(0) for case in cases]

    found = rule.settle(measure, margins.__getitem__, 3, first=6, cap=12)
    assert wanted == [[0, 1, 2], [1]]
    assert [case.verdict for case in found] == [SLOWER, INCONCLUSIVE, SAME]


def test_settle_stops_when_all_is_decided() -> None:
    bench = Bench([0.0, 0.5], 0.001)
    rule.settle(bench, lambda i: 0.03, 2)
    assert bench.asked == [([0, 1], 6)]


def test_settle_keeps_to_a_cap_that_is_no_power() -> None:
    bench = Bench([0.03], 0.01)
    (found,) = rule.settle(bench, lambda i: 0.03, 1, first=4, cap=10)
    assert [rounds for _, rounds in bench.asked] == [4, 4, 2]
    assert len(found.differences) == 10


def test_settle_goes_on_without_a_case_that_cannot_be_measured() -> None:
    bench = Bench([0.0, 0.0, 0.03], 0.01, failing=1)
    found = rule.settle(bench, lambda i: 0.03, 3)
    assert [case.verdict for case in found] == [SAME, "", INCONCLUSIVE]
    assert found[1].estimate is None
    assert all(1 not in cases for cases, _ in bench.asked[1:])
    assert rule.settle(Bench([], 1.0), lambda i: 0.03, 0) == []
