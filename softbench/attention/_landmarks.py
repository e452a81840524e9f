"""Landmarks: the few tokens that stand for all, by pooling the token grid or by picking tokens.

Tokens x are [B, H, N, D] with N = rows * cols in row-major order; landmarks are [B, H, m, D]. How many there are never
grows with N.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention import _adaptive
from softbench.errors import UsageError

POOLED = ("avg", "conv")  # samplings whose landmarks form a grid
Grid = tuple[int, int]


@functools.cache
def landmark_grid(grid: Grid, count: int) -> Grid:
    """Rows and columns of at most `count` landmarks that pool a token grid.

    For each number of rows r the columns are min(cols, count // r). Among those with at least 90 % of the largest
    r * c, the aspect nearest to the token grid's wins. With no more tokens than `count`, each is a landmark.
    """
    rows, cols = grid
    if rows * cols <= count:
        return grid
    choices = [(r, min(cols, count // r)) for r in range(1, min(rows, count) + 1)]
    most = max(r * c for r, c in choices)
    return min((choice for choice in choices if choice[0] * choice[1] >= 0.9 * most),
               key=lambda choice: abs(math.log(choice[0] * cols / (choice[1] * rows))))


def avg_pool(x: Tensor, grid: Grid, to: Grid) -> Tensor:
    """Adaptive 2-D average pooling of the token grid; windows overlap by one where the sizes do not divide."""
    if grid == to:
        return x
    (rows, cols), (r, c) = grid, to
    b, h, _, d = x.shape
    if rows % r == 0 and cols % c == 0:
        return x.reshape(b, h, r, rows // r, c, cols // c, d).mean((3, 5)).reshape(b, h, r * c, d)
    image = x.mT.reshape(b * h, d, rows, cols)
    return F.adaptive_avg_pool2d(image, to).reshape(b, h, d, r * c).mT


def segment_means(x: Tensor, count: int) -> Tensor:
    """Means of `count` consecutive segments of tokens; neighbours share a token where N is no multiple of `count`."""
    tokens = x.shape[2]
    return avg_pool(x, (1, tokens), (1, min(count, tokens)))


def landmark_count(grid: Grid, sampling: str, count: int) -> int:
    """How many landmarks there will be: `count`, or fewer where the token grid cannot give as many."""
    return math.prod(landmark_grid(grid, count)) if sampling in POOLED else min(count, math.prod(grid))


def landmark_note(grid: Grid, sampling: str, count: int) -> str:
    """What to tell a reader where fewer landmarks than asked are used."""
    used = landmark_count(grid, sampling, count)
    if used == count:
        return ""
    if used == math.prod(grid):
        return f"every token is a landmark ({used}, {count} asked)"
    return f"{used} of {count} landmarks: they form a grid"


class Landmarks(nn.Module):
    """Landmarks of SOFT (NeurIPS 2021, Table 4b), and two that look at the tokens (`_adaptive`).

    - `avg`: adaptive average pooling to the landmark grid, the paper's default.
    - `conv`: as in the official code, a convolution without bias whose stride is its kernel, shared by all heads, then
      layer norm and erf-GELU. Kernel and stride are tokens // landmarks in each direction; where that leaves more
      positions than landmarks, the map is average-pooled to the landmark grid before the norm. Its weights fit the
      grid it was built for.
    - `random`: tokens drawn once without repetition from `seed`, the same for all samples and heads.
    - `first`: the first tokens (the paper's biased sampling). `strided`: evenly spaced tokens.
    - `kmeans`: centres of a few Lloyd steps. `rpcholesky`: tokens drawn by randomly pivoted Cholesky. Both follow
      `seed` and are chosen for each sample and head alone.
    """

    picked: Tensor

    def __init__(self, sampling: str, count: int, grid: Grid, head_dim: int, seed: int = 0) -> None:
        super().__init__()
        self.sampling, self.count, self.seed = sampling, count, seed
        self.built_for = grid
        if sampling == "conv":
            self.conv = nn.Conv2d(head_dim, head_dim, conv_stride(grid, count), conv_stride(grid, count), bias=False)
            self.norm = nn.LayerNorm(head_dim)
        elif sampling not in ("avg", *_adaptive.SAMPLINGS):
            self.register_buffer("picked", self._pick(math.prod(grid)), persistent=False)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        if self.sampling == "avg":
            return avg_pool(x, grid, landmark_grid(grid, self.count))
        if self.sampling == "conv":
            return self._convolve(x, grid)
        if self.sampling in _adaptive.SAMPLINGS:
            return _adaptive.landmarks(x, self.sampling, self.count, self.seed)
        picked = self.picked if math.prod(grid) == math.prod(self.built_for) else self._pick(math.prod(grid))
        return x.index_select(2, picked.to(x.device))

    def _convolve(self, x: Tensor, grid: Grid) -> Tensor:
        if grid != self.built_for:
            raise UsageError(f"sampling=conv was built for a grid of {self.built_for[0]}x{self.built_for[1]} tokens, "
                             f"not {grid[0]}x{grid[1]}: build it anew, or use sampling=avg.")
        b, h, _, d = x.shape
        image = x.mT.reshape(b * h, d, *grid)
        image = F.conv2d(image, self.conv.weight.to(x.dtype), stride=self.conv.stride)
        positions = image.flatten(2).mT.reshape(b, h, -1, d)
        pooled = avg_pool(positions, conv_positions(grid, self.count), landmark_grid(grid, self.count))
        weight, bias = self.norm.weight.to(x.dtype), self.norm.bias.to(x.dtype)
        return F.gelu(F.layer_norm(pooled, (d,), weight, bias, self.norm.eps))

    def _pick(self, tokens: int) -> Tensor:
        count = min(self.count, tokens)
        if self.sampling == "first":
            return torch.arange(count)
        if self.sampling == "strided":
            return torch.arange(count) * tokens // count
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(tokens, generator=generator)[:count].sort().values


def conv_stride(grid: Grid, count: int) -> Grid:
    """Kernel and stride of the convolution that samples landmarks."""
    to = landmark_grid(grid, count)
    return grid[0] // to[0], grid[1] // to[1]


def conv_positions(grid: Grid, count: int) -> Grid:
    """Rows and columns of the map that this convolution gives."""
    stride = conv_stride(grid, count)
    return grid[0] // stride[0], grid[1] // stride[1]


def sampling_flops(grid: Grid, sampling: str, count: int, head_dim: int) -> float:
    """Operations to make the landmarks of one head; pooling and picking have none that are counted."""
    if sampling in _adaptive.SAMPLINGS:
        return _adaptive.flops(math.prod(grid), sampling, count, head_dim)
    if sampling != "conv":
        return 0.0
    return 2.0 * head_dim**2 * math.prod(conv_stride(grid, count)) * math.prod(conv_positions(grid, count))
