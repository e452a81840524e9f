"""What a benchmark claims of a ratio, on made-up pairs: it holds, it fails, or it is skipped as inconclusive."""

from __future__ import annotations

import random

import pytest
from benchmarks import pairs


def ratios(centre: float, noise: float) -> pairs.Callable[[int], float]:
    source = random.Random(0)
    return lambda pair: centre * source.lognormvariate(0.0, noise)


@pytest.mark.parametrize(("centre", "noise"), [(1.1, 0.01), (1.01, 0.005), (3.0, 0.3)])
def test_a_claim_holds_where_the_whole_interval_does(centre: float, noise: float) -> None:
    claim = pairs.at_least(1.0, ratios(centre, noise))
    claim.check("ours")
    assert claim.ratio == pytest.approx(centre, rel=3 * noise)


@pytest.mark.parametrize("bound", [1.0, 80.0])
def test_a_claim_fails_where_the_whole_interval_is_on_the_wrong_side(bound: float) -> None:
    with pytest.raises(AssertionError, match=r"ours: [0-9.]+ \([0-9.]+\.\.[0-9.]+, 9 pairs\)"):
        pairs.at_least(bound, ratios(0.9 * bound, 0.01)).check("ours")


def test_a_claim_on_a_noisy_machine_is_skipped_with_its_numbers() -> None:
    """Below the bound by its mean, yet not by its interval, after all the pairs that there may be."""
    claim = pairs.at_least(1.0, ratios(0.98, 0.3))
    with pytest.raises(pytest.skip.Exception, match=r"inconclusive: ours: [0-9.]+ \(0\.[0-9]+\.\.1\.[0-9]+, 36 pairs"):
        claim.check("ours")


def test_agreement_is_claimed_of_both_sides() -> None:
    pairs.within(0.03, ratios(1.0, 0.01)).check("clocks")
    for centre in (0.9, 1.1):
        with pytest.raises(AssertionError):
            pairs.within(0.03, ratios(centre, 0.01)).check("clocks")
    for centre in (0.97, 1.03):
        with pytest.raises(pytest.skip.Exception):
            pairs.within(0.03, ratios(centre, 0.05)).check("clocks")


def test_each_pair_is_in_the_other_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    clock = [0.0]

    def call(name: str, seconds: float) -> pairs.Call:
        def run() -> None:
            order.append(name)
            clock[0] += seconds

        return run

    monkeypatch.setattr(pairs.time, "perf_counter", lambda: clock[0])
    claim = pairs.times_faster(call("ours", 1.0), call("theirs", 2.0), least=1.5)
    claim.check("ours")
    assert claim.ratio == pytest.approx(2.0)
    assert "".join(name[0] for name in order[4:12]) == "toottoot"
