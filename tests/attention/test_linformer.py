"""linformer against the package `linformer`, our projections copied in."""

from __future__ import annotations

import helpers
import pytest
import torch
from linformer import LinformerSelfAttention
from torch import Tensor

from softbench.case import Shape
from softbench.errors import UsageError

SHAPE = Shape(2, 3, 5, 8, 6)


def their_attention(ours: torch.nn.Module, projected: int):
    """LinformerSelfAttention as a function of q, k, v: it is fed [q, k, v] side by side and selects each of them."""
    b, h, n, d = SHAPE.batch, SHAPE.heads, SHAPE.tokens, SHAPE.head_dim
    theirs = LinformerSelfAttention(3 * h * d, n, k=projected, heads=h, dim_head=d).double()
    zero, one = torch.zeros(h * d, h * d), torch.eye(h * d)
    with torch.no_grad():
        for i, linear in enumerate((theirs.to_q, theirs.to_k, theirs.to_v)):
            linear.weight.copy_(torch.cat([one if i == j else zero for j in range(3)], 1))
        theirs.proj_k.copy_(ours.project_k)
        theirs.proj_v.copy_(ours.project_v)
    theirs.to_out = torch.nn.Identity()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        x = torch.cat([t.transpose(1, 2).reshape(b, n, h * d) for t in (q, k, v)], -1)
        return theirs(x).view(b, n, h, d).transpose(1, 2)

    return call


@pytest.mark.parametrize("impl", ["sdpa", "math"])
@pytest.mark.parametrize("projected", [16, 256])
@pytest.mark.parametrize(("kind", "scale"), [("iid", 1.0), ("structured", 1.0), ("structured", 5.0)])
def test_values_and_gradients_match_the_package(impl: str, projected: int, kind: str, scale: float) -> None:
    ours = helpers.build(helpers.load("linformer", projected=projected), SHAPE, impl)
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=SHAPE.grid), their_attention(ours, projected),
                          helpers.inputs(SHAPE, kind, scale=scale))


def test_projections_are_trained() -> None:
    module = helpers.build(helpers.load("linformer"), SHAPE)
    y = module(*helpers.inputs(SHAPE), grid=SHAPE.grid)
    assert all(g.count_nonzero() for g in helpers.gradients(y, list(module.parameters())))


def test_projections_have_variance_one_over_their_length() -> None:
    module = helpers.load("linformer").build(Shape(1, 1, 64, 64, 4), "sdpa")
    for projection in (module.project_k, module.project_v):
        assert projection.shape == (4096, 256)
        assert float(projection.detach().square().mean()) == pytest.approx(1 / 256, rel=0.01)
    assert not torch.equal(module.project_k, module.project_v)


def test_another_length_is_told() -> None:
    module = helpers.build(helpers.load("linformer"), SHAPE)
    other = Shape(2, 3, 5, 9, 6)
    with pytest.raises(UsageError, match="built for 40 tokens, not 45"):
        module(*helpers.inputs(other), grid=other.grid)
