"""The count of operators against counts done by hand, and that it sees work that is added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from softbench import subjects
from softbench.case import AttentionSpec, Case, Shape
from softbench.measures import operators
from softbench.subjects import workload
from softbench.subjects.workload import Workload


def built(mode: str = "forward", name: str = "soft") -> Workload:
    spec = AttentionSpec(name)
    return workload.build(Case(spec, Shape(1, 2, 8, 8, 16), mode=mode), subjects.load(spec))


def count(work: Workload) -> tuple[float, dict[str, int]]:
    (reading,) = operators.measure(work, operators.Settings())
    assert reading.summary is not None
    return reading.summary, reading.detail["operators"]


def plain(call: Callable[..., Tensor], mode: str = "forward") -> Workload:
    x = torch.ones(4, 4, requires_grad=mode != "forward")
    return Workload(replace(built(mode).case, mode=mode), nn.Module(), call, (x,), (4, 4), torch.ones(4, 4))


def test_operators_by_hand() -> None:
    assert count(plain(lambda x: (x @ x).exp())) == (2.0, {"aten::exp": 1, "aten::mm": 1})
    total, counts = count(plain(lambda x: x.mT @ x, "forward_backward"))
    assert counts["aten::mm"] == 3  # the product, and one for each side of its gradient
    assert total == sum(counts.values())
    assert count(plain(lambda x: x.exp(), "backward"))[1]["aten::mul.Tensor"] == 1


@pytest.mark.parametrize("mode", operators.MODES)
def test_the_count_repeats_and_training_has_more(mode: str) -> None:
    assert count(built(mode)) == count(built(mode))
    if mode != "forward":
        assert count(built("forward_backward"))[0] > count(built("forward"))[0]


def test_one_operator_more_is_seen() -> None:
    work = built()
    more = replace(work, call=lambda *tensors: work.call(*tensors) + 0)
    assert count(more)[0] == count(work)[0] + 1


def test_state_that_is_made_once_is_not_counted() -> None:
    made: list[Tensor] = []

    def lazy(x: Tensor) -> Tensor:
        if not made:
            made.append(torch.zeros(3) + 1)
        return x + 1

    assert count(plain(lazy)) == (1.0, {"aten::add.Tensor": 1})
