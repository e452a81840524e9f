"""The search behind fit: budgets are parsed, and the largest size within them is found, or said not to exist."""

from __future__ import annotations

import math

import pytest

from softbench.errors import UsageError
from softbench.studies._over_n import budget
from softbench.studies.fit.fitting import _whole
from softbench.studies.fit.inversion import Answer, Sizes, largest


def test_a_budget_is_needed() -> None:
    with pytest.raises(UsageError, match="no budget: give --memory"):
        budget.parse("", " ")
    both = budget.parse("1GiB", "50ms")
    assert (both.memory, both.latency) == (1 << 30, 0.05)
    assert both.coords == {"memory_budget": "1GiB", "latency_budget": "50ms"}
    assert budget.parse("", "50ms").memory is None


def search(limit: float, low: int = 64, high: int = 1 << 20, precision: float = 0.05) -> Answer:
    answer = largest(Sizes(low, high, _whole), lambda size: "memory" if size > limit else "", precision)
    assert answer is not None
    return answer


@pytest.mark.parametrize("limit", [64, 65, 100, 1000, 4097, 123_456, 1_048_575])
def test_the_largest_size_is_found_within_the_precision(limit: int) -> None:
    answer = search(limit)
    assert answer.size <= limit
    assert answer.above is not None
    assert limit < answer.above <= max(answer.size * 1.05, answer.size + 1)
    assert answer.binds == "memory"
    assert len(answer.tried) <= 5 + math.log2(2 * math.log(4) / math.log(1.05)) + math.log(limit / 64, 4)
    assert len(set(answer.tried)) == len(answer.tried)


def test_not_even_the_smallest_and_all_up_to_the_largest() -> None:
    none = search(63)
    assert (none.size, none.binds, none.tried) == (0, "memory", [64])
    everything = search(1 << 20)
    assert (everything.size, everything.binds, everything.above) == (1 << 20, "", None)
    assert search(100, low=64, high=64).size == 64
    assert search(10, low=64, high=64).size == 0


def test_what_binds_is_what_the_next_size_exceeds() -> None:
    answer = largest(Sizes(64, 1 << 20, _whole),
                     lambda size: "memory" if size > 1010 else "latency" if size > 1000 else "", 0.001)
    assert answer is not None
    assert (answer.binds, answer.size, answer.above) == ("latency", 1000, 1001)


def test_coarse_precision_takes_fewer_trials() -> None:
    assert len(search(50_000, precision=0.5).tried) < len(search(50_000, precision=0.01).tried)


def test_sizes_that_cannot_run_are_never_tried() -> None:
    def sevens(size: float, above: float, below: float) -> int | None:
        found = [n for n in range(7, 5000, 7) if above < n < below]
        return min(found, key=lambda n: abs(math.log(n / size)), default=None)

    answer = largest(Sizes(64, 4096, sevens), lambda size: "latency" if size > 1000 else "", 0.001)
    assert answer is not None
    assert (answer.size, answer.above) == (994, 1001)
    assert all(size % 7 == 0 for size in answer.tried)
    assert largest(Sizes(64, 66, sevens), lambda size: "", 0.1) is None


def test_whole_numbers_lie_strictly_between() -> None:
    assert _whole(5.4, 4, 6) == 5
    assert _whole(100, 4, 6) == 5
    assert _whole(5, 5, 6) is None
