"""softmax against the plain formula."""

from __future__ import annotations

import helpers
import pytest
import torch
from torch import Tensor

from softbench.case import Shape

SHAPE = Shape(2, 3, 7, 9, 8)


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp()
    return weights @ v / weights.sum(-1, keepdim=True)


@pytest.mark.parametrize("impl", ["sdpa", "math"])
@pytest.mark.parametrize(("kind", "scale"), [("iid", 1.0), ("structured", 1.0), ("structured", 3.0)])
def test_matches_the_formula(impl: str, kind: str, scale: float) -> None:
    module = helpers.build(helpers.load("softmax"), SHAPE, impl)
    helpers.assert_agrees(lambda q, k, v: module(q, k, v, grid=SHAPE.grid), formula,
                          helpers.inputs(SHAPE, kind, scale=scale, value_dim=5))


def test_math_accumulates_in_float32() -> None:
    shape = Shape(1, 1, 64, 64, 8)
    q, k, _ = helpers.inputs(shape, scale=0.1, dtype=torch.bfloat16)
    ones = torch.ones(1, 1, 4096, 8, dtype=torch.bfloat16)
    y = helpers.load("softmax").build(shape, "math")(q, k, ones, grid=shape.grid)
    assert torch.equal(y, ones)  # a sum of 4,096 weights kept in bfloat16 would stop at 256 of them
