"""gaussian against scikit-learn's rbf_kernel and the plain formula."""

from __future__ import annotations

import helpers
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from softbench.case import Shape

SHAPE = Shape(2, 3, 7, 9, 8)
KINDS = [("iid", 1.0), ("structured", 1.0), ("structured", 4.0)]


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    distance2 = (q.unsqueeze(-2) - k.unsqueeze(-3)).square().sum(-1)
    return (-distance2 / (2 * q.shape[-1] ** 0.5)).exp() @ v


@pytest.mark.parametrize("impl", ["eager", "reference"])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_matches_scikit_learn(impl: str, kind: str, scale: float) -> None:
    q, k, v = helpers.inputs(SHAPE, kind, scale=scale, value_dim=5)
    y = helpers.build(helpers.load("gaussian"), SHAPE, impl)(q, k, v, grid=SHAPE.grid)
    for b in range(SHAPE.batch):
        for h in range(SHAPE.heads):
            scores = torch.from_numpy(rbf_kernel(q[b, h], k[b, h], gamma=1 / (2 * SHAPE.head_dim**0.5)))
            assert helpers.relative(y[b, h], scores @ v[b, h]) < 1e-11


@pytest.mark.parametrize("impl", ["eager", "reference"])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_values_and_gradients_match_the_formula(impl: str, kind: str, scale: float) -> None:
    module = helpers.build(helpers.load("gaussian"), SHAPE, impl)
    helpers.assert_agrees(lambda q, k, v: module(q, k, v, grid=SHAPE.grid), formula,
                          helpers.inputs(SHAPE, kind, scale=scale))


def test_tokens_far_from_all_keys_give_zeros() -> None:
    q, k, v = helpers.inputs(SHAPE, dtype=torch.float32)
    y = helpers.load("gaussian").build(SHAPE, "eager")(q + 1000, k, v, grid=SHAPE.grid)
    assert torch.equal(y, torch.zeros_like(v))
