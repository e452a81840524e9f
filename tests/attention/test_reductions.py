"""spatial_reduction, linear_sra and xca against timm's layers, our weights copied in, and against their formulas."""

from __future__ import annotations

from collections.abc import Callable

import contract
import helpers
import pytest
import torch
from timm.models.pvt_v2 import Attention as PvtAttention
from timm.models.xcit import XCA
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.case import Shape
from softbench.errors import UsageError

KINDS = [("iid", 1.0), ("structured", 1.0), ("structured", 5.0)]
REDUCTIONS = [("spatial_reduction", {"reduction": 8}), ("spatial_reduction", {"reduction": 2}), ("linear_sra", {})]


def rows(x: Tensor) -> Tensor:
    """[B, H, N, D] -> [B, N, H D]."""
    return x.transpose(1, 2).flatten(2)


def timm_pvt(ours: nn.Module, shape: Shape, reduction: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """timm's attention of PVT v2 as a function of q, k, v: k and v go through its reduction as two samples."""
    theirs = PvtAttention(shape.heads * shape.head_dim, shape.heads, reduction, linear_attn=not reduction).double()
    if reduction != 1:
        theirs.sr.load_state_dict(ours.reduce.sr.state_dict())
        theirs.norm.load_state_dict(ours.reduce.norm.state_dict())
    theirs.kv.forward = lambda x: torch.cat(x.chunk(2), -1).repeat(2, 1, 1)
    theirs.proj = nn.Identity()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        theirs.q.forward = lambda _: rows(q).repeat(2, 1, 1)
        y = theirs(torch.cat([rows(k), rows(v)]), shape.grid)[:shape.batch]
        return y.unflatten(2, (shape.heads, -1)).transpose(1, 2)

    return call


def randomised(module: nn.Module) -> nn.Module:
    """Parameters that start as ones and zeros, which hide where they are left out, drawn instead."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return module


@pytest.mark.parametrize("impl", ["sdpa", "math"])
@pytest.mark.parametrize(("name", "options", "grid"), [
    ("spatial_reduction", {"reduction": 8}, (16, 8)), ("spatial_reduction", {"reduction": 2}, (6, 10)),
    ("spatial_reduction", {"reduction": 1}, (3, 4)), ("linear_sra", {}, (14, 7)), ("linear_sra", {}, (9, 16))])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_reductions_match_timm(name: str, options: dict[str, int], grid: tuple[int, int], kind: str, scale: float,
                               impl: str) -> None:
    shape = Shape(2, 3, *grid, 4)
    ours = randomised(helpers.build(helpers.load(name, **options), shape, impl))
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=grid),
                          timm_pvt(ours, shape, options.get("reduction", 0)), helpers.inputs(shape, kind, scale=scale))


@pytest.mark.parametrize("grid", [(7, 9), (1, 60), (13, 1), (5, 2)])
def test_borders_that_no_window_fills_are_replicated(grid: tuple[int, int]) -> None:
    shape = Shape(2, 2, *grid, 3)
    ours = randomised(helpers.build(helpers.load("spatial_reduction", reduction=4), shape))

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def reduced(x: Tensor) -> Tensor:
            image = rows(x).mT.reshape(2, 6, *grid)
            image = F.pad(image, (0, -grid[1] % 4, 0, -grid[0] % 4), mode="replicate")
            made = ours.reduce.norm(ours.reduce.sr(image).flatten(2).mT)
            return made.unflatten(2, (2, 3)).transpose(1, 2)

        return (q @ reduced(k).mT / 3**0.5).softmax(-1) @ reduced(v)

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=grid), formula, helpers.inputs(shape))


@pytest.mark.parametrize(("grid", "pool"), [((5, 9), 7), ((9, 5), 7), ((1, 60), 7), ((2, 1), 7), ((8, 8), 3)])
def test_linear_sra_pools_to_no_more_than_the_grid(grid: tuple[int, int], pool: int) -> None:
    shape = Shape(2, 2, *grid, 3)
    ours = randomised(helpers.build(helpers.load("linear_sra", pool=pool), shape))

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def reduced(x: Tensor) -> Tensor:
            image = F.adaptive_avg_pool2d(rows(x).mT.reshape(2, 6, *grid), (min(grid[0], pool), min(grid[1], pool)))
            made = F.gelu(ours.reduce.norm(ours.reduce.sr(image).flatten(2).mT))
            return made.unflatten(2, (2, 3)).transpose(1, 2)

        return (q @ reduced(k).mT / 3**0.5).softmax(-1) @ reduced(v)

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=grid), formula, helpers.inputs(shape))


def test_no_reduction_is_softmax_attention() -> None:
    shape = Shape(1, 2, 4, 5, 6)
    q, k, v = helpers.inputs(shape, scale=3.0)
    attention = helpers.load("spatial_reduction", reduction=1)
    assert attention.note(shape) == "exact softmax: nothing is reduced"
    assert helpers.load("spatial_reduction").note(shape) == ""
    module = helpers.build(attention, shape)
    assert not list(module.parameters())
    exact = helpers.build(helpers.load("softmax"), shape)(q, k, v, grid=shape.grid)
    assert helpers.relative(module(q, k, v, grid=shape.grid), exact) < 1e-12


@pytest.mark.parametrize(("kind", "scale"), KINDS)
@pytest.mark.parametrize("fused", [False, True])
def test_xca_matches_timm(fused: bool, kind: str, scale: float) -> None:
    shape = Shape(2, 3, 5, 8, 6)
    ours, theirs = helpers.build(helpers.load("xca"), shape), XCA(18, 3).double()
    assert torch.equal(ours.temperature, theirs.temperature)
    with torch.no_grad():
        ours.temperature.copy_(torch.tensor([0.5, 1.0, 4.0]).view(3, 1, 1))
    theirs.load_state_dict({"temperature": ours.temperature}, strict=False)
    theirs.fused_attn, theirs.proj = fused, nn.Identity()

    def timm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        theirs.qkv.forward = lambda _: torch.cat([rows(q), rows(k), rows(v)], -1)
        return theirs(rows(q)).unflatten(2, (3, -1)).transpose(1, 2)

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=shape.grid), timm,
                          helpers.inputs(shape, kind, scale=scale))


def test_xca_at_a_large_temperature_carries_each_channel_over() -> None:
    shape = Shape(2, 2, 6, 6, 5)
    q, _, v = helpers.inputs(shape)
    module = helpers.build(helpers.load("xca"), shape)
    with torch.no_grad():
        module.temperature.fill_(1e3)  # q'.k' is 1 on the diagonal alone where k = q
    assert helpers.relative(module(q, q, v, grid=shape.grid), v) < 1e-9


def test_xca_on_channels_of_zeros_is_their_mean_with_finite_gradients() -> None:
    shape = Shape(1, 2, 3, 3, 4)
    q, k, v = helpers.inputs(shape)
    leaves = [(0 * q).requires_grad_(), (0 * k).requires_grad_(), v.requires_grad_()]
    y = helpers.build(helpers.load("xca"), shape)(*leaves, grid=shape.grid)
    assert helpers.relative(y, v.mean(-1, keepdim=True).expand_as(v)) < 1e-12
    assert all(g.isfinite().all() for g in helpers.gradients(y, leaves))


@pytest.mark.parametrize(("name", "options"), [*REDUCTIONS, ("xca", {})], ids=str)
def test_parameters_are_trained(name: str, options: dict[str, int]) -> None:
    shape = Shape(1, 2, 16, 16, 4)
    module = helpers.build(helpers.load(name, **options), shape)
    y = module(*helpers.inputs(shape), grid=shape.grid)
    assert all(g.count_nonzero() for g in helpers.gradients(y, list(module.parameters())))


@pytest.mark.parametrize("name", ["spatial_reduction", "linear_sra", "xca"])
def test_values_of_another_dim_are_told(name: str) -> None:
    shape = Shape(1, 2, 4, 4, 4)
    q, k, v = helpers.inputs(shape, value_dim=5)
    with pytest.raises(UsageError, match="same dim as its queries: 5, not 4"):
        helpers.build(helpers.load(name), shape)(q, k, v, grid=shape.grid)


@pytest.mark.parametrize(("name", "options"), [
    ("spatial_reduction", {"reduction": 1}), ("spatial_reduction", {"reduction": 3}), ("linear_sra", {"pool": 2})],
    ids=str)
@pytest.mark.parametrize("check", contract.VARY_WITH_OPTIONS)
def test_options_keep_the_contract(name: str, options: dict[str, int], check: str) -> None:
    contract.CHECKS[check](helpers.load(name, **options), "sdpa")
