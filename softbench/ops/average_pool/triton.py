"""Average pooling on the GPU: tokens are read once, in their own dtype and strides, whatever the windows.

Registered with torch as `softbench::avg_pool` and `softbench::add_avg_pool_gradient`, which writes into its first
argument. The gradient is gathered token by token, so that no two programs write to one place: a token is in two windows
at most along each axis.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

_POOLED, _SPREAD = 1 << 12, 1 << 11  # numbers of a tile: what registers hold, by the compiler's report for sm_90


def avg_pool(x: Tensor, grid: tuple[int, int], to: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The means of all windows, [B, H, r * c, D]."""
    y: Tensor = _avg_pool(x, *grid, *to, dtype)
    return y


def add_gradient(dx: Tensor, dy: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> None:
    """Add all windows at once."""
    _add_gradient(dx, dy, *grid, *to)


@torch.library.custom_op("softbench::avg_pool", mutates_args=())
def _avg_pool(x: Tensor, rows: int, cols: int, r: int, c: int, dtype: torch.dtype) -> Tensor:
    b, h, _, d = x.shape
    y = x.new_empty(b, h, r * c, d, dtype=dtype)
    if y.numel():
        with torch.cuda.device_of(x):
            _pool[(b * h * r * c,)](x, y, *x.stride(), h, rows, cols, r, c, **_tile(d, _POOLED))
    return y


@_avg_pool.register_fake
def _(x: Tensor, rows: int, cols: int, r: int, c: int, dtype: torch.dtype) -> Tensor:
    return x.new_empty(*x.shape[:2], r * c, x.shape[3], dtype=dtype)


@torch.library.custom_op("softbench::add_avg_pool_gradient", mutates_args=("dx",))
def _add_gradient(dx: Tensor, dy: Tensor, rows: int, cols: int, r: int, c: int) -> None:
    b, h, n, d = dx.shape
    if dx.numel():
        tile = _tile(d, _SPREAD)
        with torch.cuda.device_of(dx):
            _spread[(b * h * triton.cdiv(n, tile["BLOCK_N"]),)](dx, dy.contiguous(), *dx.stride(), h, rows, cols, r, c,
                                                               **tile)


@register_flop_formula([torch.ops.softbench.avg_pool, torch.ops.softbench.add_avg_pool_gradient])
def _flops(*_: Any, **__: Any) -> int:
    return 0  # by the convention of counters: there is no product


def _tile(width: int, numbers: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"D": width, "BLOCK_D": block, "BLOCK_N": max(1, numbers // block), "num_warps": 4}


@triton.jit
def _pool(x, y, x_b, x_h, x_n, x_d, heads, rows, cols, r, c, D: tl.constexpr, BLOCK_D: tl.constexpr,
          BLOCK_N: tl.constexpr):
    """A program owns a window of a head, and takes BLOCK_N of its tokens at once."""
    group, window = tl.program_id(0) // (r * c), tl.program_id(0) % (r * c)
    top, bottom = _window(window // c, rows, r)
    left, right = _window(window % c, cols, c)
    width, area = right - left, (bottom - top) * (right - left)
    column = tl.arange(0, BLOCK_D).to(tl.int64)
    x += (group // heads).to(tl.int64) * x_b + (group % heads).to(tl.int64) * x_h
    sums = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start in range(0, area, BLOCK_N):
        place = start + tl.arange(0, BLOCK_N)
        token = ((top + place // width) * cols + left + place % width).to(tl.int64)
        inside = (place < area)[:, None] & (column < D)[None, :]
        sums += tl.load(x + token[:, None] * x_n + column[None, :] * x_d, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(sums, 0) / area
    tl.store(y + tl.program_id(0).to(tl.int64) * D + column, mean.to(y.dtype.element_ty), mask=column < D)


@triton.jit
def _spread(dx, dy, x_b, x_h, x_n, x_d, heads, rows, cols, r, c, D: tl.constexpr, BLOCK_D: tl.constexpr,
            BLOCK_N: tl.constexpr):
    """dx_t += the sum of dy_w / |w| over the windows w of token t; a program owns BLOCK_N tokens of a head."""
    blocks = tl.cdiv(rows * cols, BLOCK_N)
    group, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    token, column = block * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D).to(tl.int64)
    row, col = token // cols, token % cols
    inside = (token < rows * cols)[:, None] & (column < D)[None, :]
    sums = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for down in tl.static_range(2):
        for across in tl.static_range(2):
            i, j = row * r // rows + down, col * c // cols + across
            top, bottom = _window(i, rows, r)
            left, right = _window(j, cols, c)
            shared = (i < r) & (j < c) & (top <= row) & (left <= col)
            mean = tl.load(dy + (group * r * c + i * c + j)[:, None] * D + column[None, :],
                           mask=inside & shared[:, None], other=0.0)
            sums += mean.to(tl.float32) / ((bottom - top) * (right - left)).to(tl.float32)[:, None]
    dx += (group // heads) * x_b + (group % heads) * x_h
    places = dx + token.to(tl.int64)[:, None] * x_n + column[None, :] * x_d
    sums += tl.load(places, mask=inside, other=0.0).to(tl.float32)
    tl.store(places, sums.to(dx.dtype.element_ty), mask=inside)


@triton.jit
def _window(i, tokens, windows):
    """Return the first token of window i along an axis, and the first after it."""
    return i * tokens // windows, ((i + 1) * tokens + windows - 1) // windows
