"""performer against the package `performer-pytorch`, our projection copied in, and against softmax.

That package subtracts another stabiliser (the maximum without |x|^2 / 2, detached), which cancels only for eps = 0:
there values and gradients must agree. With eps its numbers are another function, and are not compared.
"""

from __future__ import annotations

import contract
import helpers
import pytest
import torch
from torch import Tensor

from softbench.attention.performer import orthogonal_features
from softbench.case import Shape

performer_pytorch = helpers.quiet_import("performer_pytorch.performer_pytorch")

SHAPE = Shape(2, 3, 7, 9, 8)
KINDS = [("iid", 1.0), ("structured", 1.0), ("structured", 3.0)]


@pytest.mark.parametrize("features", [8, 20, 64])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_softmax_features_match_the_package(kind: str, scale: float, features: int) -> None:
    ours = helpers.build(helpers.load("performer", features=features, eps=0.0), SHAPE)

    def theirs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        fq, fk = (performer_pytorch.softmax_kernel(t, projection_matrix=ours.projection, is_query=query, eps=0.0)
                  for t, query in ((q, True), (k, False)))
        return performer_pytorch.linear_attention(fq, fk, v)

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=SHAPE.grid), theirs,
                          helpers.inputs(SHAPE, kind, scale=scale))


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_relu_features_match_the_package(kind: str, scale: float) -> None:
    ours = helpers.build(helpers.load("performer", kernel="relu"), SHAPE)

    def theirs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        fq, fk = (performer_pytorch.generalized_kernel(t, projection_matrix=ours.projection) for t in (q, k))
        return performer_pytorch.linear_attention(fq, fk, v)

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=SHAPE.grid), theirs,
                          helpers.inputs(SHAPE, kind, scale=scale))


def test_eps_is_added_to_features_whose_largest_is_one() -> None:
    q, k, v = helpers.inputs(SHAPE, "structured")
    ours = helpers.build(helpers.load("performer", features=16, eps=0.1), SHAPE)

    def features(x: Tensor, over: tuple[int, ...]) -> Tensor:
        x = x / SHAPE.head_dim**0.25
        raw = (x @ ours.projection.mT - x.square().sum(-1, keepdim=True) / 2).exp()
        return raw / raw.amax(over, keepdim=True) + 0.1

    weights = features(q, (-1,)) @ features(k, (-2, -1)).mT
    truth = weights @ v / weights.sum(-1, keepdim=True)
    assert helpers.relative(ours(q, k, v, grid=SHAPE.grid), truth) < 1e-12


def test_more_features_come_nearer_to_softmax() -> None:
    q, k, v = helpers.inputs(SHAPE, scale=0.5)
    exact = helpers.build(helpers.load("softmax"), SHAPE)(q, k, v, grid=SHAPE.grid)
    errors = []
    for features in (16, 256, 4096):
        modules = [helpers.build(helpers.load("performer", features=features, seed=s), SHAPE) for s in range(4)]
        errors.append(sum(helpers.relative(m(q, k, v, grid=SHAPE.grid), exact) for m in modules) / 4)
    assert errors[0] > 2.5 * errors[1] > 2.5**2 * errors[2]  # as 1 / sqrt(features): 4 each
    assert errors[2] < 0.05


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_half_precision_inputs_neither_vanish_nor_overflow(kernel: str, dtype: torch.dtype) -> None:
    shape = Shape(1, 1, 64, 256, 16)
    q, k, v = helpers.inputs(shape, "structured", scale=20.0, dtype=dtype)
    module = helpers.load("performer", kernel=kernel).build(shape, "eager")
    y = module(q, k, v + 100, grid=shape.grid)
    assert y.dtype == dtype
    truth = module(q.float(), k.float(), (v + 100).float(), grid=shape.grid)
    assert truth.isfinite().all()
    assert helpers.relative(y, truth) < torch.finfo(dtype).eps


@pytest.mark.parametrize("options", [{"kernel": "relu"}, {"features": 20, "eps": 1e-2}], ids=str)
@pytest.mark.parametrize("check", contract.VARY_WITH_OPTIONS)
def test_options_keep_the_contract(options: dict[str, object], check: str) -> None:
    contract.CHECKS[check](helpers.load("performer", **options), "eager")


def test_projection_rows_are_orthogonal_and_as_long_as_normal_vectors() -> None:
    w = orthogonal_features(4096, 16, seed=0).double()
    gram = w.view(256, 16, 16) @ w.view(256, 16, 16).mT
    off_diagonal = gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2))
    assert float(off_diagonal.abs().max()) < 1e-4
    squares = w.square().sum(1)  # chi-square with 16 degrees of freedom: mean 16, variance 32
    assert float(squares.mean()) == pytest.approx(16, rel=0.03)
    assert float(squares.var()) == pytest.approx(32, rel=0.15)
    assert float(w.mean(0).abs().max()) < 0.1


def test_projection_depends_on_its_seed_alone() -> None:
    first = orthogonal_features(20, 8, seed=1)
    torch.manual_seed(5)
    assert torch.equal(first, orthogonal_features(20, 8, seed=1))
    assert first.shape == (20, 8)
    assert not torch.equal(first, orthogonal_features(20, 8, seed=2))
