"""avg_pool and its gradient against torch's adaptive pooling in float64; the kernels in Triton's interpreter."""

from __future__ import annotations

import math

import contract
import helpers
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from softbench.case import Shape
from softbench.errors import Unsupported
from softbench.ops import dispatch
from softbench.ops.average_pool import add_gradient, avg_pool

GRIDS = [((6, 8), (3, 4)), ((7, 9), (3, 4)), ((7, 9), (7, 4)), ((5, 5), (1, 1)), ((1, 37), (1, 8)), ((19, 23), (2, 5))]
IMPLS = ["eager", "triton"]
DTYPES = [torch.float32, torch.float16]


def needs(impl: str) -> None:
    if impl == "triton":
        pytest.importorskip("triton")
        if not dispatch.interpreted():
            pytest.skip("a GPU is here: see tests/gpu")


def tokens(grid: tuple[int, int], dtype: torch.dtype, width: int = 20) -> Tensor:
    return helpers.inputs(Shape(2, 3, *grid, width), dtype=dtype)[0]


def formula(x: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    image = x.double().mT.reshape(6, x.shape[3], *grid)
    return F.adaptive_avg_pool2d(image, to).reshape(2, 3, x.shape[3], math.prod(to)).mT


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("grid", "to"), GRIDS)
@pytest.mark.parametrize("impl", IMPLS)
def test_is_torchs_adaptive_pooling(impl: str, grid: tuple[int, int], to: tuple[int, int], dtype: torch.dtype) -> None:
    needs(impl)
    x = tokens(grid, dtype)
    y = avg_pool(x, grid, to, torch.float32, impl)
    assert y.dtype == torch.float32
    assert helpers.relative(y, formula(x, grid, to)) < 3e-7
    assert avg_pool(x, grid, to, impl=impl).dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("grid", "to"), GRIDS)
@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_is_added(impl: str, grid: tuple[int, int], to: tuple[int, int], dtype: torch.dtype) -> None:
    needs(impl)
    x = tokens(grid, torch.float64).requires_grad_()
    dy = helpers.inputs(Shape(2, 3, *to, 20), seed=1, dtype=torch.float32)[0]
    (truth,) = torch.autograd.grad(formula(x, grid, to), x, dy.double())
    before = tokens(grid, dtype)
    dx = before.clone()
    add_gradient(dx, dy, grid, to, impl)
    assert helpers.relative(dx, before.double() + truth) < (2e-7 if dtype == torch.float32 else 1e-3)


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_tokens_and_memory_full_of_nan(impl: str) -> None:
    needs(impl)
    grid, to = (7, 9), (3, 4)
    clean = tokens(grid, torch.float32)
    room = torch.full((2, 65, 3, 25), torch.nan)
    room[:, 1:-1, :, 2:-3] = clean.transpose(1, 2)
    strided = room[:, 1:-1, :, 2:-3].transpose(1, 2)  # [B, H, N, D]
    with contract._poisoned():
        y = avg_pool(strided, grid, to, impl=impl)
        assert helpers.relative(y, avg_pool(clean, grid, to, impl=impl)) < 1e-6
        add_gradient(strided, y, grid, to, impl)
    add_gradient(clean, y, grid, to, impl)
    assert torch.equal(strided, clean)
    assert int(room.isfinite().sum()) == clean.numel()


def test_what_the_kernels_cannot_take_is_told() -> None:
    needs("triton")
    with pytest.raises(Unsupported, match="avg_pool cannot run as triton: float64 is none of"):
        avg_pool(tokens((4, 4), torch.float64), (4, 4), (2, 2), impl="triton")


def test_the_gradient_of_soft_takes_them() -> None:
    """Grids that no window divides: the pool's gradient meets that of the tokens in one tensor."""
    needs("triton")
    shape, found = Shape(1, 2, 9, 10, 16), []
    q, _, v = helpers.inputs(shape, "structured", dtype=torch.float32)
    for impl in ("triton", "reference"):
        leaves = [t.clone().requires_grad_() for t in (q, v)]
        module = helpers.load("soft", landmarks=12).build(shape, impl)
        with FlopCounterMode(display=False) as counter:
            y = module(leaves[0], leaves[0], leaves[1], grid=(9, 10))
        found.append([y, *helpers.gradients(y, leaves)])
        if impl == "triton":
            assert {"softbench.avg_pool", "softbench.landmark_attention"} <= {
                str(op) for op in counter.get_flop_counts()["Global"]}
    for mine, truth in zip(*found, strict=True):
        assert helpers.relative(mine, truth) < 1e-4


def test_operators_pass_torchs_own_checks() -> None:
    needs("triton")
    from softbench.ops.average_pool import triton  # noqa: F401

    x = tokens((4, 6), torch.float32)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.softbench.avg_pool.default, (x, 4, 6, 2, 3, torch.float32), test_utils=checks)
    torch.library.opcheck(torch.ops.softbench.add_avg_pool_gradient.default,
                          (x, avg_pool(x, (4, 6), (2, 3)), 4, 6, 2, 3), test_utils=checks)
