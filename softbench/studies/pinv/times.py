"""Times of an inverse, taken by the measure `latency`: a workload whose module inverts its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softbench.case import AttentionSpec, Case, Shape
from softbench.contracts.measure import Reading
from softbench.dtypes import name_of
from softbench.measures import latency
from softbench.ops._common import widened
from softbench.studies.pinv import gradients
from softbench.subjects.workload import Workload


@dataclass(frozen=True)
class Call:
    """One thing to time: a method after so many steps, forward alone or with its gradient."""

    method: str
    steps: int
    mode: str = "forward"
    way: gradients.Way = "op"


class _Inverting(nn.Module):
    def __init__(self, call: Call, ridge: float) -> None:
        super().__init__()
        self.call, self.ridge = call, ridge

    def forward(self, a: Tensor) -> Tensor:
        return gradients.run(a, self.call.method, self.call.steps, self.ridge, self.call.way)


def measure(a: Tensor, ridge: float, calls: Sequence[Call], rep: float) -> list[Reading]:
    """Seconds of each call on the whole stack `a` [G, m, m]; `rep` ms of work each, interleaved."""
    settings = latency.Settings(rep=rep, warmup=rep / 5, rounds=3)
    return [reading for (reading,) in latency.measure_group([_workload(a, ridge, c) for c in calls], settings)]


def _workload(a: Tensor, ridge: float, call: Call) -> Workload:
    shape = Shape(len(a), 1, a.shape[-1], 1, a.shape[-1])
    case = Case(AttentionSpec(call.method), shape, dtype=name_of(a.dtype), mode=call.mode)
    leaf = a.detach().clone().requires_grad_(call.mode != "forward")
    module = _Inverting(call, ridge)
    return Workload(case, module, module, (leaf,), a.shape, torch.ones_like(widened(a)))
