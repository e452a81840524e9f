"""Feature maps against their formulas with the N x N matrix written out, and against packages where there are any.

linear, relu_linear, efficient, sima, hydra, cosformer and rfa; those with a convolution are in
`test_feature_maps_vision.py`. performer-pytorch gives the quotient f(q) (f(k)^T v) / f(q) sum f(k) of any features,
linear-attention-transformer efficient attention, timm the attention of EfficientViT.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import contract
import helpers
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from softbench.case import Shape

SHAPE = Shape(2, 3, 7, 9, 8)
KINDS = [("iid", 1.0), ("structured", 1.0), ("structured", 3.0)]
ALL = ("linear", "relu_linear", "efficient", "sima", "hydra", "cosformer", "rfa", "flatten", "polaformer", "mlla")

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


def normalised(weights: Tensor, v: Tensor, eps: float) -> Tensor:
    """Weights [B, H, N, N] over the mean of each row plus eps."""
    return weights @ v / weights.shape[-1] / (weights.mean(-1, keepdim=True) + eps)


def linear(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    return normalised((F.elu(q) + 1) @ (F.elu(k) + 1).mT, v, eps)


def relu_linear(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-5) -> Tensor:
    return normalised(q.relu() @ k.relu().mT, v, eps)


def efficient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.softmax(-1) @ k.softmax(-2).mT @ v


def scaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n = q.shape[2]
    return (q / n**0.5) @ (k / n**0.5).mT @ v


def sima(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.normalize(q, p=1, dim=2) @ F.normalize(k, p=1, dim=2).mT @ v


def hydra(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A head for each channel, with an N x N matrix each."""
    joined = [t.transpose(1, 2).flatten(2) for t in (q, k, v)]  # [B, N, H D]
    q, k = (F.normalize(t, dim=-1).mT.unsqueeze(-1) for t in joined[:2])  # [B, H D, N, 1]
    y = q @ k.mT @ joined[2].mT.unsqueeze(-1)
    return y.squeeze(-1).unflatten(1, v.shape[1::2]).mT


def cosformer(q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-6) -> Tensor:
    n = q.shape[2]
    place = torch.arange(n, dtype=q.dtype)
    weights = q.relu() @ k.relu().mT * (math.pi / 2 * (place[:, None] - place) / n).cos()
    return weights @ v / n / weights.mean(-1, keepdim=True).clamp_min(eps)


FORMULAS: list[tuple[str, dict[str, Any], Formula]] = [
    ("linear", {}, linear), ("linear", {"eps": 0.1}, lambda q, k, v: linear(q, k, v, 0.1)),
    ("relu_linear", {}, relu_linear), ("relu_linear", {"eps": 0.1}, lambda q, k, v: relu_linear(q, k, v, 0.1)),
    ("efficient", {}, efficient), ("efficient", {"normalisation": "scaling"}, scaled), ("sima", {}, sima),
    ("hydra", {}, hydra), ("cosformer", {}, cosformer),
    ("cosformer", {"eps": 1.0}, lambda q, k, v: cosformer(q, k, v, 1.0)),
]


@pytest.mark.parametrize(("name", "options", "formula"), FORMULAS, ids=lambda x: str(x) if not callable(x) else "")
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_formula(kind: str, scale: float, name: str, options: dict[str, Any], formula: Formula) -> None:
    ours = helpers.build(helpers.load(name, **options), SHAPE)
    tensors = helpers.inputs(SHAPE, kind, scale=scale, value_dim=8 if name == "hydra" else 5)
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=SHAPE.grid), formula, tensors, bound=1e-12)


def quotient() -> Formula:
    """What performer-pytorch makes of features of q and of k: sums, not means, and no eps."""
    return helpers.quiet_import("performer_pytorch.performer_pytorch").linear_attention


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_linear_matches_a_package(kind: str, scale: float) -> None:
    ours, theirs = helpers.build(helpers.load("linear", eps=0.0), SHAPE), quotient()
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=SHAPE.grid),
                          lambda q, k, v: theirs(F.elu(q) + 1, F.elu(k) + 1, v),
                          helpers.inputs(SHAPE, kind, scale=scale))


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_cosformer_matches_a_package_which_counts_from_one(kind: str, scale: float) -> None:
    ours, theirs = helpers.build(helpers.load("cosformer"), SHAPE), quotient()
    angles = torch.arange(1, SHAPE.tokens + 1).double().unsqueeze(-1) * math.pi / 2 / SHAPE.tokens

    def features(x: Tensor) -> Tensor:
        return torch.cat([x.relu() * angles.sin(), x.relu() * angles.cos()], -1)

    q, k, v = helpers.inputs(SHAPE, kind, scale=scale)
    q[..., 0], k[..., 0] = q[..., 0].abs() + 0.1, k[..., 0].abs()  # no query meets no key: eps takes no part
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=SHAPE.grid),
                          lambda q, k, v: theirs(features(q), features(k), v), (q, k, v))


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_efficient_matches_packages(kind: str, scale: float) -> None:
    ours = helpers.build(helpers.load("efficient"), SHAPE)
    scaled_besides = helpers.quiet_import("linear_attention_transformer.linear_attention_transformer").linear_attn
    tensors = helpers.inputs(SHAPE, kind, scale=scale)
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=SHAPE.grid),
                          lambda q, k, v: scaled_besides(q, k, v) * SHAPE.head_dim**0.5, tensors)
    unprojected = helpers.quiet_import("performer_pytorch").FastAttention(SHAPE.head_dim, no_projection=True)
    truth = quotient()(tensors[0].softmax(-1), tensors[1].softmax(-2), tensors[2])
    assert helpers.relative(unprojected(*tensors), truth) < 1e-6  # what it computes
    assert helpers.relative(ours(*tensors, grid=SHAPE.grid), truth) < 1e-9


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_relu_linear_matches_timm_in_its_float32(kind: str, scale: float) -> None:
    from timm.models.efficientvit_mit import LiteMLA

    ours = helpers.load("relu_linear", eps=1e-3 / SHAPE.tokens).build(SHAPE, "eager")
    dim = SHAPE.heads * SHAPE.head_dim
    theirs = LiteMLA(dim, dim, heads=SHAPE.heads, dim=SHAPE.head_dim, scales=(), eps=1e-3)
    theirs.qkv, theirs.proj = torch.nn.Identity(), torch.nn.Identity()

    def module(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Heads hold their q, k and v side by side, as the channels of an image."""
        image = torch.cat([q, k, v], -1).mT.flatten(1, 2).unflatten(-1, SHAPE.grid)
        return theirs(image).flatten(2).unflatten(1, (SHAPE.heads, SHAPE.head_dim)).mT

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=SHAPE.grid), module,
                          helpers.inputs(SHAPE, kind, scale=scale, dtype=torch.float32), bound=1e-5)


@pytest.mark.parametrize("kernel", ["gaussian", "arccos"])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_rfa_matches_a_package(kind: str, scale: float, kernel: str) -> None:
    ours, theirs = helpers.build(helpers.load("rfa", kernel=kernel, tau=1.5, features=256), SHAPE), quotient()

    def features(x: Tensor) -> Tensor:
        x = F.normalize(x, dim=-1) @ ours.projection.mT
        return x.relu() if kernel == "arccos" else torch.cat([x.cos(), x.sin()], -1)

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=SHAPE.grid),
                          lambda q, k, v: theirs(features(q), features(k), v), helpers.inputs(SHAPE, kind, scale=scale))


def test_rfa_comes_near_to_softmax_of_unit_vectors() -> None:
    q, k, v = helpers.inputs(SHAPE, "structured", scale=3.0)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT / 0.6**2
    truth = scores.softmax(-1) @ v
    errors = []
    for features in (64, 1024, 16384):
        modules = [helpers.build(helpers.load("rfa", features=features, tau=0.6, seed=s), SHAPE) for s in range(3)]
        errors.append(sum(helpers.relative(m(q, k, v, grid=SHAPE.grid), truth) for m in modules) / 3)
    assert errors[0] > 2.5 * errors[1] > 2.5**2 * errors[2]  # as 1 / sqrt(features): 4 each
    assert errors[2] < 0.05


def test_rfa_divides_by_eps_at_least() -> None:
    q, k, v = helpers.inputs(SHAPE, "structured")
    ours = helpers.build(helpers.load("rfa", features=32, eps=0.5), SHAPE)
    fq, fk = (F.normalize(t, dim=-1) @ ours.projection.mT for t in (q, k))
    kernel = (fq.unsqueeze(-2) - fk.unsqueeze(-3)).cos().mean(-1)  # cos a cos b + sin a sin b
    norm = kernel.mean(-1, keepdim=True)
    assert (norm < 0.5).any()
    assert (norm > 0.5).any()
    truth = kernel @ v / SHAPE.tokens / norm.clamp_min(0.5)
    assert helpers.relative(ours(q, k, v, grid=SHAPE.grid), truth) < 1e-6  # W is drawn in float32


def test_rfa_projection_depends_on_its_seed_alone() -> None:
    first = helpers.build(helpers.load("rfa", seed=1), SHAPE, seed=3).projection
    assert torch.equal(first, helpers.build(helpers.load("rfa", seed=1), SHAPE, seed=4).projection)
    assert not torch.equal(first, helpers.build(helpers.load("rfa", seed=2), SHAPE, seed=3).projection)
    assert torch.allclose(first / 2, helpers.build(helpers.load("rfa", seed=1, tau=2.0), SHAPE).projection)


def test_linear_keeps_its_digits_where_entries_are_very_negative() -> None:
    q, k, v = (t.float() for t in helpers.inputs(SHAPE))
    module = helpers.load("linear", eps=0.0).build(SHAPE, "eager")
    y = module(q - 15, k - 15, v, grid=SHAPE.grid)  # elu(x) + 1 itself gives 0 there, or one digit
    assert helpers.relative(y, linear((q - 15).double(), (k - 15).double(), v.double(), 0.0)) < 1e-3


@pytest.mark.parametrize("options", [{"name": "efficient", "normalisation": "scaling"},
                                     {"name": "rfa", "kernel": "arccos", "features": 20, "tau": 2.0}], ids=str)
@pytest.mark.parametrize("check", contract.VARY_WITH_OPTIONS)
def test_options_keep_the_contract(options: dict[str, Any], check: str) -> None:
    contract.CHECKS[check](helpers.load(**options), "eager")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_long_half_precision_inputs_neither_vanish_nor_overflow(name: str, dtype: torch.dtype) -> None:
    shape = Shape(1, 1, 64, 256, 16)
    q, k, v = helpers.inputs(shape, "structured", scale=20.0, dtype=dtype)
    module = helpers.load(name).build(shape, "eager")
    v = {"sima": 4096 * v, "hydra": v}.get(name, v + 100)  # those two have weights of both signs
    y = module(q, k, v, grid=shape.grid)
    assert y.dtype == dtype
    truth = module(q.float(), k.float(), v.float(), grid=shape.grid)
    assert truth.isfinite().all()
    assert helpers.relative(y, truth) < torch.finfo(dtype).eps


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["zeros", "one token", "constant", "huge", "tiny"])
def test_extreme_inputs_give_finite_outputs_and_gradients(name: str, kind: str) -> None:
    shape = Shape(1, 2, 1, 1, 4) if kind == "one token" else Shape(1, 2, 5, 3, 4)
    q, k, v = helpers.inputs(shape, dtype=torch.float32)
    factor = {"zeros": 0.0, "huge": 1e6, "tiny": 1e-12}.get(kind, 1.0)
    tensors = [factor * t if kind != "constant" else 0 * t - 1.5 for t in (q, k)] + [v]
    leaves = [t.requires_grad_() for t in tensors]
    y = helpers.load(name).build(shape, "eager")(*leaves, grid=shape.grid)
    assert y.isfinite().all()
    assert all(g.isfinite().all() for g in helpers.gradients(y, leaves))


@pytest.mark.parametrize("name", ["linear", "cosformer", "mlla"])
def test_gradients_written_by_hand_have_gradients(name: str) -> None:
    shape = Shape(1, 1, 2, 3, 4)
    module = helpers.build(helpers.load(name), shape)
    leaves = [t.requires_grad_() for t in helpers.inputs(shape)]
    torch.autograd.gradgradcheck(lambda q, k, v: module(q, k, v, grid=shape.grid), leaves)


@pytest.mark.parametrize("name", ALL)
def test_compiles_as_one_graph(name: str) -> None:
    shape = Shape(1, 2, 4, 6, 8)
    module = helpers.load(name).build(shape, "eager")
    leaves = [t.requires_grad_() for t in helpers.inputs(shape, dtype=torch.float32)]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    results = [[y, *helpers.gradients(y, leaves)] for y in (m(*leaves, grid=shape.grid) for m in (module, compiled))]
    for plain, traced in zip(*results, strict=True):
        assert helpers.relative(traced, plain) < 1e-5
