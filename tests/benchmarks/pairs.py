"""Interleaved pairs of calls, what can be claimed of their ratio, and what a package needs to be called as ours is.

A claim is judged by the gate's own rule (`softbench.compare.rule`): it fails where the whole interval of the ratio lies
on the wrong side, and is inconclusive, a skip with the numbers, where some of it does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from softbench.compare import rule
from softbench.compare.rule import Settled
from softbench.subjects.workload import Workload

PAIRS, MOST_PAIRS = 9, 36

Call = Callable[[], object]


@dataclass(frozen=True)
class Claim:
    """A ratio of two times from interleaved pairs, and whether what is claimed of it holds.

    Attributes:
        settled: what the rule made of ln(ratio / bound).
        right: the verdict of the rule with which the claim holds.
        bound: what the ratio was divided by.
    """

    settled: Settled
    right: str
    bound: float = 1.0

    @property
    def ratio(self) -> float:
        """The geometric mean over pairs."""
        assert self.settled.estimate is not None
        return self.bound * math.exp(self.settled.estimate.mean)

    @property
    def span(self) -> str:
        """The interval that the verdict rests on, and the number of pairs."""
        assert self.settled.estimate is not None
        low, high = self.settled.estimate.interval(rule.LEVEL / rule.looks(PAIRS, MOST_PAIRS))
        count = len(self.settled.differences)
        return f" ({self.bound * math.exp(low):.3f}..{self.bound * math.exp(high):.3f}, {count} pairs)"

    def check(self, what: str) -> None:
        """Fail where the opposite is shown; skip where neither is."""
        if self.settled.verdict == rule.INCONCLUSIVE:
            pytest.skip(f"inconclusive: {what}: {self.ratio:.3f}{self.span}")
        assert self.settled.verdict == self.right, f"{what}: {self.ratio:.3f}{self.span}"


def at_least(bound: float, ratio: Callable[[int], float]) -> Claim:
    """The claim that a ratio is at least so large; `ratio(i)` measures it once more, in pair i."""
    return Claim(_settle(lambda pair: math.log(ratio(pair) / bound), 0.0), rule.SLOWER, bound)  # slower is larger


def within(share: float, ratio: Callable[[int], float]) -> Claim:
    """The claim that a ratio is 1 but for so small a share."""
    return Claim(_settle(lambda pair: math.log(ratio(pair)), math.log1p(share)), rule.SAME)


def _settle(difference: Callable[[int], float], margin: float) -> Settled:
    taken: list[float] = []

    def measure(cases: list[int], rounds: int) -> list[list[float]]:
        taken.extend(difference(len(taken)) for _ in range(rounds))
        return [taken[len(taken) - rounds:]]

    (settled,) = rule.settle(measure, lambda case: margin, 1, PAIRS, MOST_PAIRS)
    return settled


def times_faster(ours: Call, theirs: Call, least: float = 1.0) -> Claim:
    """The claim that ours is so many times faster; each pair in the other order than the one before."""
    def ratio(pair: int) -> float:
        if pair % 2:
            mine = seconds(ours)
            return seconds(theirs) / mine
        other = seconds(theirs)
        return other / seconds(ours)

    for _ in range(2):
        ours(), theirs()
    return at_least(least, ratio)


def seconds(call: Call) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def differentiated(built: Workload, forward: Callable[[], Tensor], leaves: list[Tensor], target: Tensor) -> Call:
    """A call of `forward` in the mode of the workload: alone without gradients, or with its gradients by `leaves`."""
    def call() -> object:
        if built.case.mode == "forward":
            with torch.no_grad():
                return forward()
        return torch.autograd.grad(forward(), leaves, target)

    return call


class Given(nn.Module):
    """Stands where a package has a linear layer, and gives what the benchmark prepared."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = tensor

    def forward(self, _: Tensor) -> Tensor:
        return self.tensor
