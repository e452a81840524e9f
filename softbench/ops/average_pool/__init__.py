"""Average pooling of a grid of tokens, x [B, H, N, D] with N = rows * cols -> [B, H, r * c, D].

Window i of m along an axis of n tokens is floor(i n / m) <= t < ceil((i + 1) n / m), as in torch's adaptive pooling:
neighbours share a token where m does not divide n. Each mean weighs the tokens of its own window alike.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from softbench.ops import dispatch
from softbench.ops.average_pool import eager

Grid = tuple[int, int]


def avg_pool(x: Tensor, grid: Grid, to: Grid, dtype: torch.dtype | None = None, impl: str = "eager") -> Tensor:
    """The means of all windows in `dtype`, or that of x.

    "triton" is for where autograd does not look: its gradient is `add_gradient`.

    Raises:
        Unsupported: no implementation of that name, or one that cannot run here.
    """
    pooled: Tensor = _module(impl, x).avg_pool(x, grid, to, dtype or x.dtype)
    return pooled


def add_gradient(dx: Tensor, dy: Tensor, grid: Grid, to: Grid, impl: str = "eager") -> None:
    """Add the gradient by the tokens to dx [B, H, N, D], for dy [B, H, r * c, D]."""
    _module(impl, dx).add_gradient(dx, dy, grid, to)


def _module(impl: str, x: Tensor) -> ModuleType:
    if dispatch.resolve("avg_pool", impl, x.device, lambda: dispatch.triton_lacks(x.device.type, x.dtype)) == "triton":
        from softbench.ops.average_pool import triton

        return triton
    return eager
