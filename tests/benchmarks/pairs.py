"""Interleaved pairs of calls, and what a package needs to be called as ours is: shared by the benchmarks of ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from softbench.subjects.workload import Workload

PAIRS = 9

Call = Callable[[], object]


def times_faster(ours: Call, theirs: Call) -> tuple[float, str]:
    """The median of theirs / ours, and its span; each pair in the other order than the one before."""
    ratios = []
    for _ in range(2):
        ours(), theirs()
    for pair in range(PAIRS):
        if pair % 2:
            mine = seconds(ours)
            other = seconds(theirs)
        else:
            other = seconds(theirs)
            mine = seconds(ours)
        ratios.append(other / mine)
    return statistics.median(ratios), f" ({min(ratios):.2f}..{max(ratios):.2f})"


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
