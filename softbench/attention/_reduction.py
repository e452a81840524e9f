"""`spatial_reduction` and `linear_sra` shorten keys and values by one convolution over the token grid.

In the Pyramid Vision Transformers the tokens are shortened before they are projected to keys and values. An attention
sees what the projections made, so the same convolution and layer norm, over the H D channels of all heads together, act
on keys and on values here. Where the projections are the identity the two orders agree.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.contracts.attention import accumulation_dtype

Grid = tuple[int, int]


class Reduction(nn.Module):
    """A convolution whose stride is its kernel, with bias, and a layer norm over all channels.

    The convolution is one matrix product of patches, keys and values at once, so that its weights are read once. A
    border that no window fills is filled with its last row or column.
    """

    def __init__(self, dim: int, window: int) -> None:
        super().__init__()
        conv = nn.Conv2d(dim, dim, window, window)
        self.sr = conv.to(memory_format=torch.channels_last)  # as patches are laid out
        self.norm = nn.LayerNorm(dim)

    def forward(self, k: Tensor, v: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Return the keys and values [B, H, M, D] from [B, H, N, D], in the dtype of the arithmetic."""
        acc, heads, window = accumulation_dtype(k.dtype), k.shape[1], self.sr.kernel_size[0]
        patches = torch.cat([_patches(k, grid, window), _patches(v, grid, window)]).to(acc)
        flat = patches.flatten(1, 2).flatten(2)  # [2 B, M, window^2 H D]
        weight = self.sr.weight.to(acc).permute(0, 2, 3, 1).flatten(1)  # [H D, window^2 H D]
        assert self.sr.bias is not None
        reduced = F.linear(flat, weight, self.sr.bias.to(acc))  # [2 B, M, H D]
        norm = self.norm
        reduced = F.layer_norm(reduced, norm.normalized_shape, norm.weight.to(acc), norm.bias.to(acc), norm.eps)
        keys, values = reduced.unflatten(2, (heads, -1)).transpose(1, 2).chunk(2)
        return keys, values


def _patches(x: Tensor, grid: Grid, window: int) -> Tensor:
    """A view of the token grid as windows, [B, rows, cols, window, window, H, D]; a copy where a border is filled."""
    image = x.transpose(1, 2).unflatten(1, grid)  # [B, rows, cols, H, D]
    rows, cols = reduced_grid(grid, window)
    for axis, size in ((1, rows * window), (2, cols * window)):
        if lacking := size - image.shape[axis]:
            last = image.narrow(axis, image.shape[axis] - 1, 1)
            image = torch.cat([image, *lacking * [last]], axis)
    return image.unflatten(2, (cols, window)).unflatten(1, (rows, window)).transpose(2, 3)


def reduced_grid(grid: Grid, window: int) -> Grid:
    """Rows and columns of what the convolution gives."""
    return -(-grid[0] // window), -(-grid[1] // window)


def reduction_flops(grid: Grid, window: int, dim: int) -> float:
    """Count the operations of the convolution of the keys and of the values of one sample."""
    return 4.0 * math.prod(reduced_grid(grid, window)) * window**2 * dim**2
