"""The fit behind scaling: injected growth is recovered within its interval, breaks are found, and claims are judged."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from softbench.studies.scaling import claims, growth
from softbench.studies.scaling import held as _held
from softbench.studies.scaling.lengths import grid

LENGTHS = np.array(grid(64, 16384, 2), float)
Cost = Callable[[np.ndarray], np.ndarray]


def noisy(cost: Cost, noise: float, seed: int, lengths: np.ndarray = LENGTHS) -> np.ndarray:
    return cost(lengths) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(lengths)))


def coverage(cost: Cost, exponent: float, noise: float, trials: int, lengths: np.ndarray = LENGTHS) -> float:
    """The share of seeded trials whose interval contains the true exponent."""
    inside = 0
    for seed in range(trials):
        low, high = growth.fit(lengths, noisy(cost, noise, seed, lengths)).interval
        inside += low <= exponent <= high
    return inside / trials


def power(exponent: float) -> Cost:
    return lambda n: 3e-7 * n**exponent


def test_powers_are_within_their_interval_as_often_as_it_says() -> None:
    shares = {(p, noise): coverage(power(p), p, noise, 100) for p in (1.0, 1.5, 2.0) for noise in (0.02, 0.05)}
    assert min(shares.values()) >= 0.9, shares
    assert 0.92 <= sum(shares.values()) / len(shares) <= 0.99, shares


@pytest.mark.parametrize(("overhead", "each", "exponent"), [(2e-4, 2e-7, 1.0), (1e-3, 1e-9, 2.0)])
def test_a_power_above_an_overhead_is_within_its_interval(overhead: float, each: float, exponent: float) -> None:
    assert coverage(lambda n: overhead + each * n**exponent, exponent, 0.03, 100) >= 0.9


def test_a_power_above_a_break_is_within_its_interval() -> None:
    assert coverage(lambda n: np.maximum(n, n**2 / 1024), 2.0, 0.03, 100) >= 0.9


def test_few_lengths_are_covered_too_by_wider_intervals() -> None:
    few = np.array(grid(256, 4096, 1), float)
    assert coverage(power(1.0), 1.0, 0.05, 100, few) >= 0.88
    wide, narrow = (growth.fit(n, noisy(power(1.0), 0.05, 1, n)).interval for n in (few, LENGTHS))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_breaks_are_found_near_the_truth_and_not_where_there_are_none() -> None:
    places = []
    for seed in range(20):
        found = growth.fit(LENGTHS, noisy(lambda n: np.where(n < 1024, n, n**2 / 1024), 0.02, seed))
        assert found.kind == "pieces"
        places += [b for b in found.breaks if b > 300]
    assert 20 <= len(places) <= 22
    assert 900 < float(np.median(places)) < 1150
    straight = [growth.fit(LENGTHS, noisy(power(1.0), 0.03, seed)) for seed in range(40)]
    assert sum(bool(one.breaks) for one in straight) <= 4
    assert sum(bool(growth.fit(LENGTHS, noisy(power(1.0), 0.1, seed)).breaks) for seed in range(40)) <= 8


def test_two_breaks_are_found() -> None:
    def cost(n: np.ndarray) -> np.ndarray:
        x = np.log(n)
        return np.exp(2 * np.maximum(0, x - math.log(400)) - 1.2 * np.maximum(0, x - math.log(3000)))

    found = growth.fit(LENGTHS, noisy(cost, 0.02, 3))
    assert len(found.breaks) == 2
    assert found.breaks == pytest.approx((400, 3000), rel=0.15)
    assert found.exponents == pytest.approx((0, 2, 0.8), abs=0.1)
    assert all(low < e < high for e, (low, high) in zip((0, 2, 0.8), found.intervals, strict=True))


def test_an_overhead_gives_way_where_it_equals_the_power() -> None:
    found = growth.fit(LENGTHS, noisy(lambda n: 2e-4 + 2e-7 * n, 0.02, 0))
    assert found.kind == "floor"
    assert found.breaks[0] == pytest.approx(1000, rel=0.15)
    assert found.exponents[0] == 0
    assert found.cost(4096) == pytest.approx(2e-4 + 2e-7 * 4096, rel=0.05)


def test_exact_costs_have_exact_exponents() -> None:
    found = growth.fit(LENGTHS, 8.0 * LENGTHS**2)
    assert found.exponent == pytest.approx(2, abs=1e-9)
    assert found.interval[1] - found.interval[0] < 1e-6
    assert found.breaks == ()


def test_extrapolated_costs_have_intervals_that_widen_and_cover() -> None:
    inside, near, far = 0, 0.0, 0.0
    for seed in range(60):
        found = growth.fit(LENGTHS, noisy(power(1.5), 0.04, seed))
        low, high = found.cost_interval(1 << 18)
        inside += low <= 3e-7 * (1 << 18) ** 1.5 <= high
        near += math.log(found.cost_interval(16384)[1] / found.cost_interval(16384)[0])
        far += math.log(high / low)
    assert inside >= 53
    assert far > 1.5 * near


@pytest.mark.parametrize(("lengths", "costs"), [([64, 128], [1.0, 2.0]), ([64, 128, 256], [1.0, 0.0, 2.0])])
def test_no_slope_from_nothing(lengths: list[float], costs: list[float]) -> None:
    with pytest.raises(ValueError, match="a slope needs 3 lengths"):
        growth.fit(lengths, costs)


def growth_of(cost: Cost, noise: float = 0.01) -> growth.Growth:
    return growth.fit(LENGTHS, noisy(cost, noise, 1))


@pytest.mark.parametrize(("claim", "exponent", "cost", "verdict"), [
    ("N", 1.0, "latency", "holds"), ("N", 1.06, "latency", "nearly holds"), ("N", 1.5, "latency", "grows faster"),
    ("N^2", 1.5, "latency", "grows slower so far"), ("N^2", 2.0, "latency", "holds"),
    ("N", 0.5, "memory", "no faster"), ("N", 1.0, "memory", "no faster"), ("N", 2.0, "memory", "grows faster"),
    ("", 1.0, "latency", "")])
def test_claims_are_judged_by_the_interval(claim: str, exponent: float, cost: str, verdict: str) -> None:
    assert claims.verdict(claim, growth_of(power(exponent)), cost) == verdict


def test_n_log_n_is_judged_by_its_local_exponent() -> None:
    assert claims.claimed("N log N", math.e**10) == pytest.approx(1.1)
    found = growth_of(lambda n: n * np.log(n), 0.002)
    assert claims.verdict("N log N", found, "latency") in ("holds", "nearly holds")
    assert "N log N" in claims.course(found)


def test_a_wide_interval_decides_nothing_unless_it_is_far_away() -> None:
    wild = growth.fit(LENGTHS[:4], [1.0, 2.5, 1.7, 3.0])
    assert wild.interval[1] - wild.interval[0] > 0.6
    assert claims.verdict("N", wild, "latency") == "undecided"


def test_words_can_be_quoted() -> None:
    found = growth_of(lambda n: 2e-4 + 2e-7 * n, 0.005)
    low, high = found.interval
    assert claims.sentence("N", found, "latency") == (
        f"claims O(N), measured N^{found.exponent:.2f} [{low:.2f}, {high:.2f}] above 1,000: holds")
    assert claims.course(found) == "overhead floor to 1,000, then linear"
    assert claims.course(growth_of(power(2.0))) == "quadratic"
    assert claims.course(growth_of(power(1.5))).startswith("N^1.5")
    assert claims.course(growth_of(lambda n: np.where(n < 1024, n, n**2 / 1024))) == "linear to 1,000, then quadratic"
    assert "above" not in claims.measured(growth_of(power(1.0)))


@pytest.mark.parametrize("cost", [lambda n: 5000 + 300 * n, lambda n: 40 * n + 0.5 * n**2, lambda n: 0.5 * n**2])
def test_bytes_reach_the_limit_where_they_should(cost: Cost) -> None:
    end = _held.end(list(LENGTHS), list(cost(LENGTHS)), 1 << 30)
    assert float(cost(np.array([end]))[0]) == pytest.approx(1 << 30, rel=1e-6)


def test_a_step_at_short_lengths_does_not_move_the_end() -> None:
    held = 300 * LENGTHS + np.where(LENGTHS < 700, 0, 1e6)
    assert _held.end(list(LENGTHS), list(held), 1 << 30) == pytest.approx(((1 << 30) - 1e6) / 300, rel=1e-3)


def test_irregular_bytes_get_no_square_that_ruins_the_prediction() -> None:
    uneven = np.array([1.01, 0.98, 1.0, 0.99, 1.02])  # from 4,096 to 16,384, bent upwards
    held = 300 * LENGTHS[-5:] * uneven
    assert _held.end(list(LENGTHS[-5:]), list(held), 300.0 * (1 << 24)) == pytest.approx(1 << 24, rel=0.1)
    assert _held.end(list(LENGTHS[-5::2]), list(held[::2]), 300.0 * (1 << 24)) == pytest.approx(1 << 24, rel=0.1)


def test_bytes_that_do_not_grow_or_never_fit_have_no_end() -> None:
    assert _held.end([1, 2, 3], [5, 5, 5], 10) == math.inf
    assert _held.end([1, 2, 3], [5, 5, 5], 4) == 0


@pytest.mark.parametrize(("per", "lengths"), [
    (1, [64, 128, 256]), (2, [64, 96, 128, 192, 256]), (4, [64, 80, 96, 112, 128, 160, 192, 224, 256])])
def test_lengths_are_geometric(per: int, lengths: list[int]) -> None:
    assert grid(64, 256, per) == lengths
    assert grid(64, 64, per) == [64]
    assert grid(128, 64, per) == []
