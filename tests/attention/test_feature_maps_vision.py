"""flatten, polaformer and mlla against their formulas, written as their authors' code lays them out.

No package of these installs. The formulas here are on tokens [B, N, H D] with the N x N matrices written out.
"""

from __future__ import annotations

import math
from typing import Any

import contract
import helpers
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from softbench.case import Shape
from softbench.contracts.attention import Attention
from softbench.errors import UsageError

SHAPE = Shape(2, 3, 7, 9, 8)
HEADS, DIM = SHAPE.heads, SHAPE.head_dim
KINDS = [("iid", 1.0), ("structured", 1.0), ("structured", 3.0)]


def joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # [B, N, H D]


def split(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, DIM)).transpose(1, 2)  # [B, H, N, D]


def normalised(weights: Tensor, v: Tensor, eps: float) -> Tensor:
    return weights @ v / weights.shape[-1] / (weights.mean(-1, keepdim=True) + eps)


def convolved(v: Tensor, module: torch.nn.Module) -> Tensor:
    """The depthwise convolution as a sum over shifts, with the weights of ours."""
    weight, bias = module.conv.filters.weight.squeeze(1), module.conv.filters.bias  # [C, size, size], [C]
    size = weight.shape[-1]
    channels = (-1, 1, 1, DIM) if len(weight) == HEADS * DIM else (1, 1, 1, DIM)
    image = F.pad(v.unflatten(2, SHAPE.grid), (0, 0, *[size // 2] * 4))  # [B, H, rows, cols, D]
    shifts = [image[:, :, r:r + SHAPE.rows, c:c + SHAPE.cols] * weight[:, r, c].view(channels)
              for r in range(size) for c in range(size)]
    return (sum(shifts) + bias.view(channels)).flatten(2, 3)


def built(name: str, **options: object) -> tuple[torch.nn.Module, Any]:
    attention: Attention = helpers.load(name, **options)
    return helpers.build(attention, SHAPE), attention.options


def assert_formula(name: str, formula: Any, kind: str, scale: float, **options: object) -> None:
    module, parsed = built(name, **options)
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):  # not what they start as
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))

    def truth(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = formula(q, k, v, module, parsed)
        return y + convolved(v, module) if parsed.conv else y

    helpers.assert_agrees(lambda q, k, v: module(q, k, v, grid=SHAPE.grid), truth,
                          helpers.inputs(SHAPE, kind, scale=scale), bound=1e-10)


def flatten(q: Tensor, k: Tensor, v: Tensor, module: Any, options: Any) -> Tensor:
    def focused(x: Tensor) -> Tensor:
        x = (joined(x) if options.norm == "token" else x).clamp_min(1e-6)
        powers = x**options.power
        x = powers / powers.norm(dim=-1, keepdim=True) * x.norm(dim=-1, keepdim=True)
        return split(x) if options.norm == "token" else x

    return normalised(focused(q) @ focused(k).mT, v, options.eps)


def polaformer(q: Tensor, k: Tensor, v: Tensor, module: Any, options: Any) -> Tensor:
    """eps is in units of a query's and of a head's keys' largest feature."""
    powers = 1 + options.alpha * module.power.sigmoid()
    halves = [[x.relu() ** powers, (-x).relu() ** powers] for x in (q, k)]
    largest_q = torch.cat(halves[0], -1).amax(-1, keepdim=True)
    largest_k = torch.cat(halves[1], -1).amax((-2, -1), keepdim=True)
    eps = options.eps * largest_q * largest_k
    (qp, qn), (kp, kn) = halves
    v1, v2 = v.chunk(2, -1)
    return torch.cat([normalised(qp @ kp.mT + qn @ kn.mT, v1, eps), normalised(qn @ kp.mT + qp @ kn.mT, v2, eps)], -1)


def mlla(q: Tensor, k: Tensor, v: Tensor, module: Any, options: Any) -> Tensor:
    fq, fk = F.elu(q) + 1, F.elu(k) + 1

    def turned(x: Tensor) -> Tensor:
        if options.rotation == "none":
            return x
        whole = options.rotation == "token"
        x = joined(x) if whole else x
        quarter = x.shape[-1] // 4
        theta = options.base ** -(torch.arange(quarter).double() / quarter)
        rows, cols = torch.meshgrid(torch.arange(SHAPE.rows), torch.arange(SHAPE.cols), indexing="ij")
        angles = torch.cat([rows.reshape(-1, 1) * theta, cols.reshape(-1, 1) * theta], -1)  # [N, pairs]
        first, second = x[..., 0::2], x[..., 1::2]
        x = torch.stack([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()],
                        -1).flatten(-2)
        return split(x) if whole else x

    weights, norm = turned(fq) @ turned(fk).mT, (fq @ fk.mT).mean(-1, keepdim=True) + options.eps
    return weights @ v / SHAPE.tokens / norm


@pytest.mark.parametrize("options", [{}, {"norm": "head"}, {"conv": 3, "power": 1.5}, {"conv": 0, "eps": 0.1}], ids=str)
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_flatten_formula(kind: str, scale: float, options: dict[str, Any]) -> None:
    assert_formula("flatten", flatten, kind, scale, **options)


@pytest.mark.parametrize("options", [{}, {"alpha": 2.0, "conv": 3}, {"conv": 0, "eps": 0.1}], ids=str)
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_polaformer_formula(kind: str, scale: float, options: dict[str, Any]) -> None:
    assert_formula("polaformer", polaformer, kind, scale, **options)


@pytest.mark.parametrize("options", [{}, {"rotation": "head", "base": 100.0}, {"rotation": "none", "conv": 5},
                                     {"conv": 0, "eps": 0.1}], ids=str)
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_mlla_formula(kind: str, scale: float, options: dict[str, Any]) -> None:
    assert_formula("mlla", mlla, kind, scale, **options)


def test_mlla_without_rotation_and_convolution_is_linear() -> None:
    tensors = helpers.inputs(SHAPE, "structured")
    plain = helpers.build(helpers.load("linear"), SHAPE)(*tensors, grid=SHAPE.grid)
    assert torch.equal(built("mlla", rotation="none", conv=0)[0](*tensors, grid=SHAPE.grid), plain)


def test_mlla_sees_where_tokens_stand_to_each_other_only() -> None:
    """Weights between equal tokens depend on the distance in rows and in columns."""
    ones = torch.ones(1, HEADS, SHAPE.tokens, DIM).double()
    module = built("mlla", conv=0)[0]
    weights = [module(ones, ones, F.one_hot(torch.tensor(at), SHAPE.tokens).double().view(1, 1, -1, 1)
                      .expand_as(ones), grid=SHAPE.grid).unflatten(2, SHAPE.grid)[0, :, :, :, 0]
               for at in (0, 2 * SHAPE.cols + 3)]  # by the first token, and by the one at row 2 and col 3
    assert torch.allclose(weights[1][:, 2:, 3:], weights[0][:, :-2, :-3])
    assert not torch.allclose(weights[1][:, 2:, 3:], weights[1][:, :-2, :-3])
    assert torch.allclose(weights[0][0], weights[0][0, :, :1].expand_as(weights[0][0]))  # the first head sees rows only


def test_flatten_with_power_one_is_relu_linear() -> None:
    q, k, v = helpers.inputs(SHAPE, "structured")
    q[..., 0] = q[..., 0].abs() + 1
    plain = helpers.build(helpers.load("relu_linear", eps=1e-12), SHAPE)(q, k, v, grid=SHAPE.grid)
    ours = built("flatten", power=1.0, conv=0, eps=1e-12)[0](q, k, v, grid=SHAPE.grid)
    assert helpers.relative(ours, plain) < 1e-4  # 1e-6 for what is not positive


def test_a_higher_power_looks_at_fewer_tokens() -> None:
    q, k, _ = helpers.inputs(SHAPE, "structured")
    v = torch.eye(SHAPE.tokens).double()
    largest = []
    for power in (1.0, 3.0, 9.0):
        module = built("flatten", power=power, conv=0)[0]
        parts = [module(q, k, part.expand(2, HEADS, -1, -1), grid=SHAPE.grid) for part in v[:, :56].split(DIM, 1)]
        largest.append(torch.cat(parts, -1).amax(-1).mean())
    assert largest[0] < 0.8 * largest[1] < 0.64 * largest[2]


def test_polaformer_keeps_signs_apart() -> None:
    """Where q and k have no negative entries, the second half of the channels gets nothing."""
    q, k, v = helpers.inputs(SHAPE)
    module = built("polaformer", conv=0)[0]
    same, opposite = module(q.abs(), k.abs(), v, grid=SHAPE.grid).chunk(2, -1)
    assert opposite.count_nonzero() == 0
    assert same.count_nonzero() == same.numel()
    turned = module(-q.abs(), k.abs(), v.roll(DIM // 2, -1), grid=SHAPE.grid).chunk(2, -1)
    assert torch.allclose(turned[1], same)
    assert turned[0].count_nonzero() == 0


@pytest.mark.parametrize(("name", "rows"), [("flatten", 24), ("polaformer", 24), ("mlla", 24)])
def test_long_vectors_are_in_range(name: str, rows: int) -> None:
    """Powers of these overflow float32 by themselves: 1e5^9 and 1e5^5."""
    shape = Shape(1, 2, rows, 4, 8)
    options = {"flatten": {"power": 9.0}, "polaformer": {"alpha": 8.0}, "mlla": {}}[name]
    q, k, v = helpers.inputs(shape, "structured", scale=1e5, dtype=torch.float32)
    module = helpers.load(name, **options).build(shape, "eager")
    y = module(q, k, v, grid=shape.grid)
    truth = module.double()(q.double(), k.double(), v.double(), grid=shape.grid)
    assert helpers.relative(y, truth) < 1e-3


@pytest.mark.parametrize("power", [32.0, 64.0])
@pytest.mark.parametrize("norm", ["token", "head"])
def test_flatten_keeps_high_powers_of_many_channels_in_range(power: float, norm: str) -> None:
    """Where all entries of 8 x 64 are alike, those of length 1 have 32nd powers of about 1e-43."""
    shape = Shape(1, 8, 4, 4, 64)
    q, k, v = (x.requires_grad_() for x in helpers.inputs(shape, dtype=torch.float32))
    q = (1 + q / 16).abs()
    module = helpers.load("flatten", power=power, norm=norm).build(shape, "eager")
    y = module(q, k, v, grid=shape.grid)
    gradients = torch.autograd.grad(y.square().sum(), (q, k, v))
    assert all(x.isfinite().all() for x in (y, *gradients))
    truth = module.double()(q.double(), k.double(), v.double(), grid=shape.grid)
    assert helpers.relative(y, truth) < 1e-4


@pytest.mark.parametrize("options", [
    {"name": "flatten", "conv": 0, "norm": "head", "power": 2.5}, {"name": "polaformer", "conv": 3, "alpha": 1.0},
    {"name": "mlla", "rotation": "head", "conv": 5}, {"name": "mlla", "rotation": "none", "conv": 0}], ids=str)
@pytest.mark.parametrize("check", contract.VARY_WITH_OPTIONS)
def test_options_keep_the_contract(options: dict[str, Any], check: str) -> None:
    contract.CHECKS[check](helpers.load(**options), "eager")


@pytest.mark.parametrize("name", ["flatten", "polaformer", "mlla"])
def test_even_convolution_is_told(name: str) -> None:
    with pytest.raises(UsageError, match="conv must be odd, or 0 for none, not 4"):
        helpers.load(name, conv=4)


@pytest.mark.parametrize("name", ["hydra", "flatten", "polaformer", "mlla"])
def test_values_of_another_dim_are_told(name: str) -> None:
    q, k, v = helpers.inputs(SHAPE, value_dim=5)
    with pytest.raises(UsageError, match="values of the same dim as its queries: 5, not 8"):
        helpers.build(helpers.load(name), SHAPE)(q, k, v, grid=SHAPE.grid)


def test_powers_start_at_the_middle_of_their_range() -> None:
    module = built("polaformer", alpha=6.0)[0]
    assert module.power.shape == (HEADS, 1, DIM)
    assert math.isclose(float(1 + 6 * module.power.detach().sigmoid().mean()), 4.0)
