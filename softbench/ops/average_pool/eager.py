"""Average pooling in plain torch; where sizes divide, without a copy of the tokens."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def avg_pool(x: Tensor, grid: tuple[int, int], to: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The means of all windows, [B, H, r * c, D]."""
    if grid == to:
        return x.to(dtype)
    (rows, cols), (r, c) = grid, to
    b, h, _, d = x.shape
    if rows % r == 0 and cols % c == 0:
        if x.is_cuda:  # in one reduction, which keeps nothing
            return x.reshape(b, h, r, rows // r, c, cols // c, d).mean((3, 5), dtype=dtype).reshape(b, h, r * c, d)
        # one axis after the other reads memory in its order
        summed = x.reshape(b, h, r, rows // r, cols * d).sum(3, dtype=dtype) if rows > r else x.to(dtype)
        return summed.reshape(b, h, r * c, cols // c, d).sum(3) * (r * c / (rows * cols))
    image = x.to(dtype).mT.reshape(b * h, d, rows, cols)
    return F.adaptive_avg_pool2d(image, to).reshape(b, h, d, r * c).mT


def add_gradient(dx: Tensor, dy: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> None:
    """Add one window after the other."""
    image = dx.view(*dx.shape[:2], *grid, dx.shape[3])  # [B, H, rows, cols, D]
    windows = [[(i * n // m, -(-(i + 1) * n // m)) for i in range(m)] for n, m in zip(grid, to, strict=True)]
    for (top, bottom), row in zip(windows[0], dy.unflatten(2, to).unbind(2), strict=True):
        for (left, right), mean in zip(windows[1], row.unbind(2), strict=True):  # [B, H, D]
            image[:, :, top:bottom, left:right].add_(mean[:, :, None, None] / ((bottom - top) * (right - left)))
