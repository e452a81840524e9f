"""Pseudo-inverses on the GPU: one Triton program holds a matrix from A to its inverse, in one launch for all.

Registered with torch as `softbench::pseudo_inverse(a, method, iterations, ridge)`, with the implicit gradient
-V^T G V^T. Arithmetic is float32, and its products are never rounded to TF32: with a condition number of 5,000 that
would be the end of Newton's iteration.

`cholesky` eliminates (Gauss-Jordan, without pivoting) instead of factoring, as the rows of a factor would have to be
found one by one and then solved for. The pivots of a symmetric positive definite matrix are the squares of the diagonal
of Cholesky's factor: one that is not positive is where Cholesky's method fails, and makes the result NaN. Each of the m
steps is a product of two vectors, so the work is m^3 multiply-adds, where ten steps of scaled_newton are 20 m^3.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from softbench.ops._common import once
from softbench.ops.pseudo_inverse._methods import flops


def inverse(a: Tensor, method: str, iterations: int, ridge: float, implicit: bool) -> Tensor:
    """V [G, m, m] after the given number of steps; the gradient of all these methods is implicit."""
    v: Tensor = _inverse(a, method, iterations, ridge)
    return v


@torch.library.custom_op("softbench::pseudo_inverse", mutates_args=())
def _inverse(a: Tensor, method: str, iterations: int, ridge: float) -> Tensor:
    a = a.contiguous()
    v, size = torch.empty_like(a), a.shape[-1]
    if not v.numel():
        return v
    block = max(16, triton.next_power_of_2(size))
    options = {"BLOCK": block, "num_warps": max(4, block // 8), "num_stages": 1, "enable_fp_fusion": True}
    with torch.cuda.device_of(a):
        if method == "cholesky":
            _eliminate[(len(a),)](a, v, size, ridge, **options)
        else:
            _iterate[(len(a),)](a, v, torch.empty_like(v), size, ridge, iterations, PANEL=16,
                                SCALED=method == "scaled_newton", **options)
    return v


@_inverse.register_fake
def _(a: Tensor, method: str, iterations: int, ridge: float) -> Tensor:
    return torch.empty_like(a, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output)


@once
def _backward(ctx: Any, dv: Tensor) -> tuple[Tensor, None, None, None]:
    (v,) = ctx.saved_tensors
    return -torch.bmm(torch.bmm(v.mT, dv), v.mT), None, None, None


_inverse.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.softbench.pseudo_inverse)
def _flops(a: torch.Size, method: str, iterations: int, ridge: float, **_: Any) -> int:
    return int(math.prod(a[:-2]) * flops(a[-1], method=method, iterations=iterations, ridge=ridge))


@triton.jit
def _eliminate(a, v, size, ridge, BLOCK: tl.constexpr):
    """Gauss-Jordan elimination of P = A + ridge I in place, by the symmetry of P from one row a step."""
    index = tl.arange(0, BLOCK)
    row, column = index[:, None], index[None, :]
    p, places, inside = _load(a, size, BLOCK)
    p += tl.where(row == column, ridge, 0.0)
    for j in range(size):
        across = tl.sum(tl.where(row == j, p, 0.0), 0)  # row j, [BLOCK]
        pivot = tl.sum(tl.where(index == j, across, 0.0), 0)
        pivot = tl.where(pivot > 0, pivot, float("nan"))
        down = tl.where(index < j, -across, across)  # column j: rows that are done have the other sign
        down = tl.where(index == j, 0.0, down)
        across = tl.where(index == j, 1.0, across) / pivot
        kept = tl.where(column == j, 0.0, p) - down[:, None] * across[None, :]
        p = tl.where(row == j, across[None, :], kept)
    tl.store(v + places, p, mask=inside)


@triton.jit
def _iterate(a, v, room, size, ridge, steps, BLOCK: tl.constexpr, PANEL: tl.constexpr, SCALED: tl.constexpr):
    """newton, or scaled_newton: V <- s (2 V - V P V) with V P in [c, 2 - c].

    Factors come from memory, PANEL rows and columns at a time: whole ones would not fit the registers. V and `room`
    are therefore written in each step, and a barrier separates writing from reading.
    """
    index = tl.arange(0, BLOCK)
    p, places, inside = _load(a, size, BLOCK)
    norm = tl.max(tl.sum(tl.abs(p), 0), 0)
    diagonal = (index[:, None] == index[None, :]) & inside
    if SCALED:
        high = norm + ridge
        low = tl.maximum(high * 1e-6, ridge)
        inverse = tl.where(diagonal, 2 / (low + high), 0.0)
        c = 2 * low / (low + high)
    else:
        inverse = (p + tl.where(diagonal, ridge, 0.0)) * (1.8 / (norm * norm))
        c = norm  # not used
    tl.store(v + places, inverse, mask=inside)
    tl.debug_barrier()
    for _ in range(steps):
        tl.store(room + places, _product(a, v, size, ridge, BLOCK, PANEL), mask=inside)
        tl.debug_barrier()
        inverse = 2 * inverse - _product(v, room, size, 0.0, BLOCK, PANEL)
        if SCALED:
            t = c * (2 - c)
            inverse *= 2 / (1 + t)
            c = 2 * t / (1 + t)
        tl.debug_barrier()
        tl.store(v + places, inverse, mask=inside)
        tl.debug_barrier()


@triton.jit
def _product(a, b, size, ridge, BLOCK: tl.constexpr, PANEL: tl.constexpr):
    """(A + ridge I) B for this program's matrices."""
    a += tl.program_id(0).to(tl.int64) * size * size
    b += tl.program_id(0).to(tl.int64) * size * size
    index, panel = tl.arange(0, BLOCK), tl.arange(0, PANEL)
    product = tl.zeros([BLOCK, BLOCK], tl.float32)
    for start in range(0, size, PANEL):
        inner = start + panel
        row, column = index[:, None], inner[None, :]
        left = tl.load(a + row * size + column, mask=(row < size) & (column < size), other=0.0)
        left += tl.where(row == column, ridge, 0.0)
        row, column = inner[:, None], index[None, :]
        right = tl.load(b + row * size + column, mask=(row < size) & (column < size), other=0.0)
        product = tl.dot(left, right, product, input_precision="ieee")
    return product


@triton.jit
def _load(a, size, BLOCK: tl.constexpr):
    """This program's matrix, zeros beyond it, with the places of its numbers and which of them there are."""
    row, column = tl.arange(0, BLOCK)[:, None], tl.arange(0, BLOCK)[None, :]
    places = tl.program_id(0).to(tl.int64) * size * size + row * size + column
    inside = (row < size) & (column < size)
    return tl.load(a + places, mask=inside, other=0.0), places, inside
