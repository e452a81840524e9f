"""Tokens far from 0, from each other, or much longer than others: float32 stays near the plain float32 formula's error.

A distance by one matrix product has the error of a squared norm: these are the tokens for which that is all of it.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable

import helpers
import pytest
import torch
from torch import Tensor

from softbench import inputs
from softbench.case import Shape
from softbench.ops import dispatch
from softbench.ops.gaussian_attention import _by_landmarks, eager, gaussian_attention, gaussian_kernel

interpreted = pytest.mark.skipif(importlib.util.find_spec("triton") is None or not dispatch.interpreted(),
                                 reason="no Triton, or a GPU is here: see tests/gpu")
NAMES = ["soft", "soft_norm", "skyformer", "gaussian"]
SHARED = ("soft", "soft_norm")  # keys are the queries
SHAPES = [Shape(2, 2, 8, 12, 32), Shape(1, 1, 12, 12, 64), Shape(1, 2, 1, 3, 1), Shape(1, 1, 9, 9, 16),
          Shape(1, 1, 8, 8, 192)]


def noise(shape: Shape, *, tokens: int = 0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape.batch, shape.heads, tokens or shape.tokens, shape.head_dim, generator=generator)


def groups(shape: Shape, seed: int, count: int, distance: float) -> Tensor:
    """Consecutive tokens around a few centres, which queries and keys share."""
    centre = distance * noise(shape, tokens=count, seed=7)
    return centre[:, :, torch.arange(shape.tokens) * count // shape.tokens] + 0.1 * noise(shape, seed=seed)


def long(shape: Shape, seed: int, length: float, every: int = 10000, mean: float = 0.0) -> Tensor:
    """Normal tokens, some of them so many times as long, and all of them around a mean."""
    x = noise(shape, seed=seed)
    x[:, :, 2 % shape.tokens::every] *= length
    return x + mean


KINDS: dict[str, Callable[[Shape, int], Tensor]] = {
    **{f"two groups {c:g}": lambda s, i, c=c: groups(s, i, 2, c) for c in (1, 3, 10, 100, 1000)},
    **{f"{n} groups 100": lambda s, i, n=n: groups(s, i, n, 100) for n in (3, 16)},
    "one long token": lambda s, i: long(s, i, 1e5),
    "one endless token": lambda s, i: long(s, i, 1e12),
    "some long tokens": lambda s, i: long(s, i, 1e4, every=20),
    "a long token far from 0": lambda s, i: long(s, i, 1e5, mean=300),
    "a large mean": lambda s, i: noise(s, seed=i) + 1000,
    "a large mean by channel": lambda s, i: noise(s, seed=i) + 1000 * noise(s, tokens=1, seed=7),
    "queries far from keys": lambda s, i: noise(s, seed=i) + 100 * i,
    "one head far from 0": lambda s, i: noise(s, seed=i) + torch.arange(s.heads).view(-1, 1, 1) * 300,
    "one sample in groups": lambda s, i: torch.where(torch.arange(s.batch).view(-1, 1, 1, 1) == 0, groups(s, i, 3, 100),
                                                     noise(s, seed=i)),
}
FAMILIES = ["normal", "structured:2", "structured:10", "structured:1000", "clustered:3", "peaky", "outliers:10",
            "outliers:100000"]


def results(name: str, shape: Shape, tensors: helpers.Inputs, impl: str, dtype: torch.dtype) -> list[Tensor]:
    """The output and the gradients by q, k and v."""
    q, k, v = leaves = [t.to(dtype).clone().requires_grad_() for t in tensors]
    module = helpers.load(name).build(shape, impl).to(dtype)
    y = module(q, q if name in SHARED else k, v, grid=shape.grid)
    return [y.detach(), *helpers.gradients(y, leaves)]


def assert_as_right_as_the_formula(name: str, shape: Shape, tensors: helpers.Inputs, impl: str = "eager") -> None:
    """Errors against float64 are at most ten times those of the plain formula, beyond what is rounding anyway."""
    truth = results(name, shape, tensors, "reference", torch.float64)
    plain = results(name, shape, tensors, "reference", torch.float32)
    ours = results(name, shape, tensors, impl, torch.float32)
    for what, a, b, exact in zip(("y", "dq", "dk", "dv"), ours, plain, truth, strict=True):
        size = exact.norm().clamp_min(1e-6)
        error, theirs = (float((t.double() - exact).norm() / size) for t in (a, b))
        assert error <= 10 * theirs + 5e-6, f"{what}: {error:.2g} away, the formula in float32 {theirs:.2g}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_is_as_right_as_the_formula(name: str, kind: str) -> None:
    for shape in SHAPES:
        tensors = KINDS[kind](shape, 1), KINDS[kind](shape, 2), noise(shape, seed=3)
        assert_as_right_as_the_formula(name, shape, tensors)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_as_right_as_the_formula(name: str, family: str) -> None:
    shape = Shape(1, 2, 12, 12, 32)
    assert_as_right_as_the_formula(name, shape, inputs.tokens(family, shape, 0))


@interpreted
@pytest.mark.parametrize("kind", ["two groups 3", "two groups 100", "3 groups 100", "two groups 1000", "one long token",
                                  "one endless token", "a large mean by channel", "queries far from keys"])
@pytest.mark.parametrize("name", NAMES)
def test_kernels_are_as_right_as_the_formula(name: str, kind: str) -> None:
    """With all landmarks in one program: 63 tokens, 49 of them."""
    shape = Shape(1, 1, 7, 9, 16)
    tensors = KINDS[kind](shape, 1), KINDS[kind](shape, 2), noise(shape, seed=3)
    assert_as_right_as_the_formula(name, shape, tensors, "triton")


@interpreted
@pytest.mark.parametrize("family", ["structured:100", "outliers:10000"])
@pytest.mark.parametrize("dim", [20, 64])
def test_kernels_are_as_right_as_the_formula_on_inputs(dim: int, family: str) -> None:
    shape = Shape(1, 1, 7, 11, dim)
    for name in ("soft", "gaussian"):
        assert_as_right_as_the_formula(name, shape, inputs.tokens(family, shape, 0), "triton")


@interpreted
@pytest.mark.parametrize(("queries", "keys"), [(9, 77), (77, 9), (70, 66), (5, 520)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_kernels_are_as_right_as_the_formula_with_few_or_many_keys(queries: int, keys: int, dtype: torch.dtype) -> None:
    """Each kernel, each with tiles that are not full; half numbers as far from 0 as they tell tokens apart."""
    shape = Shape(1, 1, 1, max(queries, keys), 16)
    x, k = (groups(shape, i, 3, 100 if dtype == torch.float32 else 30).to(dtype) for i in (1, 2))
    tensors = x[:, :, :queries], k[:, :, :keys], noise(shape, seed=3)[:, :, :keys].to(dtype)
    outcome = {}
    for impl, kind in (("triton", dtype), ("reference", torch.float64)):
        leaves = [t.to(kind).clone().requires_grad_() for t in tensors]
        y = gaussian_attention(*leaves, scale=0.5, impl=impl)
        outcome[impl] = [y.detach(), *helpers.gradients(y, leaves)]
    for ours, truth in zip(*outcome.values(), strict=True):
        assert helpers.relative(ours, truth) < max(2e-5, torch.finfo(dtype).eps)


@interpreted
def test_kernels_take_ordinary_tokens_by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences would take many times as long."""
    from softbench.ops.gaussian_attention import _launches

    shape = Shape(1, 1, 7, 9, 16)
    for dtype, family in itertools.product((torch.float32, torch.float16), ("normal", "structured", "clustered")):
        q, _, v = (t.to(dtype) for t in inputs.tokens(family, shape, 0))
        outcome = []
        for reach in (_launches._reach, lambda *_: 1e30):
            monkeypatch.setattr(_launches, "_reach", reach)
            leaves = [t.clone().requires_grad_() for t in (q, v)]
            y = helpers.load("soft").build(shape, "triton")(leaves[0], leaves[0], leaves[1], grid=shape.grid)
            outcome.append([y.detach(), *helpers.gradients(y, leaves)])
        monkeypatch.undo()
        assert all(torch.equal(a, b) for a, b in zip(*outcome, strict=True))


@pytest.mark.parametrize("impl", ["eager", pytest.param("triton", marks=interpreted)])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_all_alike_are_one_token(name: str, impl: str) -> None:
    """Their gradient is 0, and what rounding makes of it small beside that of the values."""
    shape = Shape(1, 2, 8, 12, 32) if impl == "eager" else Shape(1, 1, 7, 9, 16)
    same = (100 * noise(shape, tokens=1, seed=7)).expand(-1, -1, shape.tokens, -1).contiguous()
    y, dq, dk, _ = results(name, shape, (same, same, noise(shape, seed=3)), impl, torch.float32)
    truth, *_ = results(name, shape, (same, same, noise(shape, seed=3)), "reference", torch.float64)
    assert helpers.relative(y, truth) < 1e-3
    assert max(float(dq.abs().max()), float(dk.abs().max())) < 1e-2


def test_a_head_is_the_same_beside_one_that_is_far() -> None:
    near, far = noise(Shape(1, 1, 1, 40, 8), seed=1) / 2, 100 * noise(Shape(1, 1, 1, 40, 8), seed=2)
    both, v = torch.cat([near, far, near], 1), noise(Shape(1, 3, 1, 40, 8), seed=3)
    together, alone = gaussian_attention(both, both, v), gaussian_attention(near, near, v[:, :1])
    assert torch.equal(together[:, :1], alone)
    assert torch.equal(together[:, 1:2], gaussian_attention(far, far, v[:, 1:2]))
    assert torch.equal(gaussian_kernel(both)[:, 2:], gaussian_kernel(near))


def test_ordinary_tokens_stay_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or they would take twice the time."""
    def refuse(*_: object) -> None:
        raise AssertionError("float64")

    for module in (eager, _by_landmarks):
        monkeypatch.setattr(module, "by_reach", refuse)
    for dim in (16, 32, 64, 128, 192):
        shape = Shape(1, 2, 32, 32, dim)
        for name, family in itertools.product(NAMES, ("normal", "structured", "clustered")):
            q, k, v = inputs.tokens(family, shape, 0)
            helpers.load(name).build(shape, "eager")(q, q if name in SHARED else k, v, grid=shape.grid)
    with pytest.raises(AssertionError, match="float64"):
        gaussian_kernel(4 * q)


def test_half_precision_far_from_zero_is_only_rounded_at_the_end() -> None:
    shape = Shape(1, 2, 8, 8, 32)
    q, v = groups(shape, 1, 2, 30).bfloat16(), noise(shape, seed=3).bfloat16()
    for name in NAMES:
        attention = helpers.load(name)
        y = attention.build(shape, "eager")(q, q, v, grid=shape.grid)
        truth = attention.build(shape, "reference").double()(q.double(), q.double(), v.double(), grid=shape.grid)
        assert y.dtype == torch.bfloat16
        assert helpers.relative(y, truth) < torch.finfo(torch.bfloat16).eps
