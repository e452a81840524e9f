"""soft and soft_norm against scikit-learn's Nystroem and the plain formulas of the papers."""

from __future__ import annotations

from typing import get_args

import contract
import helpers
import pytest
import torch
from sklearn.kernel_approximation import Nystroem
from torch import Tensor
from torch.nn import functional as F

from softbench.case import Shape
from softbench.errors import UsageError
from softbench.ops import pseudo_inverse

SHAPE = Shape(2, 3, 6, 10, 8)
KINDS = [("iid", 1.0), ("structured", 1.0), ("structured", 4.0)]
BOTH = ["soft", "soft_norm"]


def scores(x: Tensor, y: Tensor) -> Tensor:
    return (-(x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1) / 2).exp()


def formula(name: str, landmarks: Tensor, x: Tensor, ridge: float, v: Tensor) -> Tensor:
    """P^T M P v with an exact inverse; landmarks and x are already divided by D^(1/4)."""
    a, p = scores(landmarks, landmarks), scores(landmarks, x)
    middle = torch.linalg.inv(a + ridge * torch.eye(a.shape[-1], dtype=a.dtype))
    if name == "soft_norm":
        d = torch.diag_embed(a.sum(-1) ** -0.5)
        middle = d @ middle @ d
    return p.mT @ middle @ p @ v


@pytest.mark.parametrize("sampling", ["random", "first"])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_without_a_ridge_is_the_nystroem_of_scikit_learn(kind: str, scale: float, sampling: str) -> None:
    q, _, v = helpers.inputs(SHAPE, kind, scale=scale)
    attention = helpers.load("soft", landmarks=12, sampling=sampling, inverse="cholesky", ridge=0.0)
    module = helpers.build(attention, SHAPE)
    x = (q / 8**0.25).numpy()
    for b in range(2):
        for h in range(3):
            theirs = Nystroem(kernel="rbf", gamma=0.5, n_components=12, random_state=b)
            if sampling == "first":
                theirs.fit(x[b, h, :12])
            else:
                theirs.fit(x[b, h])
                module.landmarks.picked = torch.from_numpy(theirs.component_indices_)
            features = torch.from_numpy(theirs.transform(x[b, h]))
            y = module(q[b:b + 1, h:h + 1], q[b:b + 1, h:h + 1], v[b:b + 1, h:h + 1], grid=SHAPE.grid)
            assert helpers.relative(y[0, 0], features @ features.T @ v[b, h]) < 1e-6


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("impl", ["eager", "reference"])
@pytest.mark.parametrize(("inverse", "iterations"), [("cholesky", 0), ("newton", 60), ("scaled_newton", 12)])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_values_and_gradients_match_the_formula(name: str, impl: str, inverse: str, iterations: int, kind: str,
                                                scale: float) -> None:
    attention = helpers.load(name, landmarks=15, inverse=inverse, iterations=iterations)
    module = helpers.build(attention, SHAPE, impl)
    pool = torch.kron(torch.eye(3), torch.kron(torch.ones(1, 2) / 4, torch.kron(torch.eye(5), torch.ones(1, 2))))

    def truth(q: Tensor, v: Tensor) -> Tensor:
        x = q / 8**0.25
        return formula(name, pool.double() @ x, x, 0.01, v)

    q, _, v = helpers.inputs(SHAPE, kind, scale=scale, value_dim=5)
    helpers.assert_agrees(lambda q, v: module(q, q, v, grid=SHAPE.grid), truth, (q, v), bound=1e-8)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("options", [
    {"sampling": "conv", "conv": 3}, {"sampling": "conv", "window": 2, "conv": 3},
    {"sampling": "random", "landmarks": 9}, {"sampling": "first"},
    {"sampling": "strided", "inverse": "newton", "iterations": 8}, {"ridge": 0.0, "landmarks": 20},
    *({"inverse": method} for method in get_args(pseudo_inverse.PerMatrix)),
], ids=str)
@pytest.mark.parametrize("check", contract.VARY_WITH_OPTIONS)
def test_options_keep_the_contract(name: str, options: dict[str, object], check: str) -> None:
    contract.CHECKS[check](helpers.load(name, **options), "eager")


@pytest.mark.parametrize("name", BOTH)
def test_every_token_a_landmark_gives_the_exact_attention(name: str) -> None:
    q, _, v = helpers.inputs(SHAPE, scale=2.0)
    attention = helpers.load(name, landmarks=64, inverse="cholesky", ridge=0.0)
    y = helpers.build(attention, SHAPE)(q, q, v, grid=SHAPE.grid)
    exact = scores(q / 8**0.25, q / 8**0.25)
    if name == "soft_norm":  # then S is K D^(-1/2) K^(-1) D^(-1/2) K
        d = torch.diag_embed(exact.sum(-1) ** -0.5)
        exact = exact @ d @ torch.linalg.inv(exact) @ d @ exact
    assert helpers.relative(y, exact @ v) < 1e-8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("inverse", ["cholesky", "newton"])
@pytest.mark.parametrize("name", BOTH)
def test_landmarks_far_apart_leave_the_values_of_the_landmarks(name: str, inverse: str, dtype: torch.dtype) -> None:
    """A ~ I, where the official normalised code returns zeros: a token that is a landmark keeps its value."""
    shape = Shape(1, 2, 3, 4, 16)
    q, _, v = helpers.inputs(shape, scale=30.0, dtype=dtype)
    q.requires_grad_()
    y = helpers.build(helpers.load(name, ridge=0.0, inverse=inverse), shape).to(dtype)(q, q, v, grid=shape.grid)
    assert helpers.relative(y, v) < torch.finfo(dtype).eps
    (dq,) = helpers.gradients(y, [q])
    assert float(dq.abs().max()) < 1e-3


@pytest.mark.parametrize("inverse", ["cholesky", "scaled_newton", "newton"])
@pytest.mark.parametrize("name", BOTH)
def test_blank_image_stays_finite(name: str, inverse: str) -> None:
    """All tokens alike: A has rank 1, and 20 steps of newton cannot reach the ridge's eigenvalues."""
    q = torch.ones(1, 1, 196, 8, requires_grad=True)
    v = torch.randn(1, 1, 196, 8, generator=torch.Generator().manual_seed(0))
    y = helpers.load(name, inverse=inverse).build(Shape(1, 1, 14, 14, 8), "eager")(q, q, v, grid=(14, 14))
    assert y.isfinite().all()
    total = v.sum(2, keepdim=True).expand_as(v)
    assert helpers.relative(y, total if name == "soft" else total / 49) < 1e-3
    assert helpers.gradients(y, [q])[0].isfinite().all()


def test_convolution_has_one_filter_a_head() -> None:
    q, _, v = helpers.inputs(SHAPE, value_dim=4)
    plain, with_conv = (helpers.build(helpers.load("soft", conv=size), SHAPE) for size in (0, 3))
    added = with_conv(q, q, v, grid=SHAPE.grid) - plain(q, q, v, grid=SHAPE.grid)
    filters = with_conv.conv.filters.weight
    assert filters.shape == (3, 1, 3, 3)
    for h in range(3):
        for e in range(4):
            image = v[:, h, :, e].view(2, 1, 6, 10)
            truth = F.conv2d(image, filters[h:h + 1], padding=1).flatten(1)
            assert helpers.relative(added[:, h, :, e], truth) < 1e-10


def test_normalisation_tames_the_middle_factor() -> None:
    q, _, v = helpers.inputs(Shape(1, 2, 28, 28, 8), "structured")
    soft, norm = (helpers.build(helpers.load(name, inverse="cholesky"), Shape(1, 2, 28, 28, 8))(q, q, v, grid=(28, 28))
                  for name in BOTH)
    assert float(norm.norm()) < 0.5 * float(soft.norm())


@pytest.mark.parametrize(("options", "message"), [
    ({"conv": 4}, "conv must be odd"),
    ({"ridge": 0.2, "inverse": "newton"}, "newton may diverge with ridge 0.2: use at most 0.05, or cholesky"),
    ({"landmarks": 0}, "landmarks must be at least 1"),
    ({"sampling": "max"}, "sampling must be one of avg, conv, conv_ratio, random, first"),
    ({"landmark": 4}, "Did you mean 'landmarks'"),
])
def test_bad_option_is_told(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        helpers.load("soft", **options)


def test_the_paper_is_one_option_away() -> None:
    """inverse=newton takes the 20 steps of the official code; its result differs from the exact inverse's."""
    assert helpers.load("soft").options.inverse == "cholesky"
    shape = Shape(1, 1, 14, 14, 8)
    q, _, v = helpers.inputs(shape, scale=0.3)
    paper, spelled, ours = (helpers.build(helpers.load("soft", **options), shape)(q, q, v, grid=shape.grid)
                            for options in ({"inverse": "newton"}, {"inverse": "newton", "iterations": 20}, {}))
    assert torch.equal(paper, spelled)
    assert 1e-6 < helpers.relative(ours, paper) < 0.5


def test_large_ridge_is_allowed_with_cholesky() -> None:
    assert helpers.load("soft", ridge=0.2, inverse="cholesky").options.ridge == 0.2


def test_memory_stays_linear_in_the_tokens() -> None:
    small, large = (helpers.load("soft").cost(Shape(1, 1, side, side, 32)) for side in (64, 256))
    assert large.elements < 16.1 * small.elements
    assert large.flops < 16.1 * small.flops
