"""nystromformer against the package `nystrom-attention`, one head at a time: its start value spans batch and heads."""

from __future__ import annotations

import contract
import helpers
import pytest
import torch
from nystrom_attention import NystromAttention
from torch import Tensor
from torch.nn import functional as F

from softbench.case import Shape
from softbench.errors import UsageError

SHAPE = Shape(2, 3, 8, 8, 6)
KINDS = [("iid", 1.0), ("structured", 1.0), ("structured", 4.0)]


def their_attention(ours: torch.nn.Module, landmarks: int, iterations: int, conv: int):
    """A NystromAttention for each head, called for each sample by itself, fed [q, k, v] side by side."""
    d = SHAPE.head_dim
    theirs = []
    for h in range(SHAPE.heads):
        head = NystromAttention(3 * d, dim_head=d, heads=1, num_landmarks=landmarks, pinv_iterations=iterations,
                                residual=bool(conv), residual_conv_kernel=conv or 33).double()
        head.to_qkv.weight.data.copy_(torch.eye(3 * d))
        head.to_out = torch.nn.Identity()
        if conv:
            head.res_conv.weight.data.copy_(ours.conv.weight[h:h + 1])
        theirs.append(head)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.cat([theirs[h](torch.cat([q[b, h], k[b, h], v[b, h]], -1)[None])
                          for b in range(SHAPE.batch) for h in range(SHAPE.heads)]).view(v.shape)

    return call


@pytest.mark.parametrize("impl", ["sdpa", "math"])
@pytest.mark.parametrize(("landmarks", "iterations", "conv"), [(8, 6, 0), (16, 3, 5), (64, 6, 0)])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_values_and_gradients_match_the_package(impl: str, kind: str, scale: float, landmarks: int, iterations: int,
                                                conv: int) -> None:
    ours = helpers.build(helpers.load("nystromformer", landmarks=landmarks, iterations=iterations, conv=conv), SHAPE,
                         impl)
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=SHAPE.grid),
                          their_attention(ours, landmarks, iterations, conv), helpers.inputs(SHAPE, kind, scale=scale))


@pytest.mark.parametrize("pooling", ["segment", "avg"])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_uneven_lengths_match_the_formula(pooling: str, kind: str, scale: float) -> None:
    shape = Shape(2, 2, 7, 9, 8)
    ours = helpers.build(helpers.load("nystromformer", landmarks=12, pooling=pooling), shape)

    def pooled(x: Tensor) -> Tensor:
        if pooling == "segment":
            return torch.stack([x[:, :, 63 * i // 12:-(-63 * (i + 1) // 12)].mean(2) for i in range(12)], 2)
        image = x.mT.reshape(4, 8, 7, 9)
        return F.adaptive_avg_pool2d(image, (3, 4)).reshape(2, 2, 8, 12).mT

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = q / 8**0.25, k / 8**0.25
        lq, lk = pooled(q), pooled(k)
        a = (lq @ lk.mT).softmax(-1)
        one = torch.eye(12, dtype=a.dtype)
        z = a.mT / (a.sum(-1).amax(-1) * a.sum(-2).amax(-1))[..., None, None]
        for _ in range(6):
            z = z @ (13 * one - a @ z @ (15 * one - a @ z @ (7 * one - a @ z))) / 4
        return (q @ lk.mT).softmax(-1) @ z @ ((lq @ k.mT).softmax(-1) @ v)

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=shape.grid), formula,
                          helpers.inputs(shape, kind, scale=scale), bound=1e-8)


def test_every_token_a_landmark_gives_softmax_once_converged() -> None:
    q, k, v = helpers.inputs(SHAPE, scale=2.0)
    exact = helpers.build(helpers.load("softmax"), SHAPE)(q, k, v, grid=SHAPE.grid)
    errors = [helpers.relative(helpers.build(helpers.load("nystromformer", iterations=i), SHAPE)(
        q, k, v, grid=SHAPE.grid), exact) for i in (2, 6, 40)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


@pytest.mark.parametrize("options", [{"conv": 33}, {"pooling": "avg", "landmarks": 20}], ids=str)
@pytest.mark.parametrize("check", contract.VARY_WITH_OPTIONS)
def test_options_keep_the_contract(options: dict[str, object], check: str) -> None:
    contract.CHECKS[check](helpers.load("nystromformer", **options), "sdpa")


def test_even_convolution_is_told() -> None:
    with pytest.raises(UsageError, match="conv must be odd, or 0 for none, not 4"):
        helpers.load("nystromformer", conv=4)


def test_fewer_landmarks_than_asked_are_told() -> None:
    attention = helpers.load("nystromformer")
    assert attention.note(Shape(1, 1, 2, 3, 4)) == "every token is a landmark (6, 64 asked)"
    assert attention.note(Shape(1, 1, 14, 14, 4)) == ""
    assert helpers.load("nystromformer", landmarks=50, pooling="avg").note(Shape(1, 1, 14, 14, 4)) == (
        "49 of 50 landmarks: they form a grid")
