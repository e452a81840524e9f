"""Landmarks: the few tokens that stand for all, by pooling the token grid or by picking tokens.

Tokens x are [B, H, N, D] with N = rows * cols in row-major order; landmarks are [B, H, m, D]. How many there are never
grows with N, but in `conv_ratio`, which is the official code's.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention import _adaptive
from softbench.attention._drawn import Drawn
from softbench.errors import UsageError
from softbench.ops._common import is_traced, needs_grad, once
from softbench.ops.average_pool import add_gradient
from softbench.ops.average_pool import avg_pool as avg_pool

CONVOLVED = ("conv", "conv_ratio")  # samplings with parameters
LINEAR = ("avg", "random", "first", "strided")  # samplings whose landmarks scale with the tokens
Grid = tuple[int, int]


def landmark_grid(grid: Grid, count: int) -> Grid:
    """Rows and columns of at most `count` landmarks that pool a token grid.

    For each number of rows r the columns are min(cols, count // r). Among those with at least 90 % of the largest
    r * c, the aspect nearest to the token grid's wins. With no more tokens than `count`, each is a landmark.
    """
    if grid[0] * grid[1] <= count:
        return grid
    return _search(grid, count) if torch.compiler.is_compiling() else _found(grid, count)  # it sees through no cache


def _search(grid: Grid, count: int) -> Grid:
    rows, cols = grid
    choices = [(r, min(cols, count // r)) for r in range(1, min(rows, count) + 1)]
    most = max(r * c for r, c in choices)
    return min((choice for choice in choices if choice[0] * choice[1] >= 0.9 * most),
               key=lambda choice: abs(math.log(choice[0] * cols / (choice[1] * rows))))


_found = functools.cache(_search)


class _PoolBeside(torch.autograd.Function):
    """x and its average pool, whose gradients meet in one tensor: that of x, which nobody else holds, is added to."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Grid, to: Grid, dtype: torch.dtype, impl: str) -> tuple[Tensor, Tensor]:
        ctx.grid, ctx.to, ctx.impl = grid, to, impl
        return x.view_as(x), avg_pool(x, grid, to, dtype, impl)

    @staticmethod
    @once
    def backward(ctx: Any, dx: Tensor, dpool: Tensor) -> tuple[Tensor, None, None, None, None]:
        add_gradient(dx, dpool, ctx.grid, ctx.to, ctx.impl)
        return dx, None, None, None, None


def segment_means(x: Tensor, count: int) -> Tensor:
    """Means of `count` consecutive segments of tokens; neighbours share a token where N is no multiple of `count`."""
    tokens = x.shape[2]
    return avg_pool(x, (1, tokens), (1, min(count, tokens)))


def landmark_count(grid: Grid, sampling: str, count: int, window: int = 0) -> int:
    """How many landmarks there will be: `count`, or fewer where the token grid cannot give as many.

    With `conv_ratio` there is one for each whole window, however many these are.
    """
    if sampling == "avg":
        return math.prod(landmark_grid(grid, count))
    if sampling in CONVOLVED:
        return math.prod(conv_landmark_grid(grid, sampling, count, conv_window(grid, count, window)))
    return min(count, math.prod(grid))


def landmark_note(grid: Grid, sampling: str, count: int, window: int = 0) -> str:
    """Tell a reader where the landmarks are not as many as asked."""
    used = landmark_count(grid, sampling, count, window)
    if used == count:
        return ""
    if sampling == "conv_ratio":
        return f"{used} landmarks: one for each window, so that they grow with the image"
    if used == math.prod(grid):
        return f"every token is a landmark ({used}, {count} asked)"
    return f"{used} of {count} landmarks: they form a grid"


class Landmarks(Drawn):
    """Landmarks of SOFT (NeurIPS 2021, Table 4b), and two that look at the tokens (`_adaptive`).

    - `avg`: adaptive average pooling to the landmark grid, the paper's default.
    - `conv`: a convolution without bias whose stride is its kernel, shared by all heads, then layer norm and erf-GELU.
      The kernel is `window` tokens wide and high, or with `window` 0 what gives the landmarks on the grid it is built
      for; a border that no window fills is replicated. Where there are more positions than landmarks, the map is
      average-pooled to a landmark grid before the norm, so that any grid gives at most m.
    - `conv_ratio`: the same as in the official code: every position is a landmark, so that m grows with the image, and
      a border that no window fills is not seen.
    - `random`: tokens drawn once without repetition from `seed`, the same for all samples and heads.
    - `first`: the first tokens (the paper's biased sampling). `strided`: evenly spaced tokens.
    - `kmeans`: centres of a few Lloyd steps. `rpcholesky`: tokens drawn by randomly pivoted Cholesky. Both follow
      `seed` and are chosen for each sample and head alone.
    """

    picked: Tensor

    def __init__(self, sampling: str, count: int, grid: Grid, head_dim: int, seed: int = 0, window: int = 0) -> None:
        super().__init__()
        self.sampling, self.count = sampling, count
        self.seed = seed if sampling in ("random", *_adaptive.SAMPLINGS) else None
        self.built_for = grid
        if sampling in CONVOLVED:
            size = conv_window(grid, count, window)
            self.conv = nn.Conv2d(head_dim, head_dim, size, size, bias=False)
            self.norm = nn.LayerNorm(head_dim)
        elif sampling not in ("avg", *_adaptive.SAMPLINGS):
            picked = self._pick(math.prod(grid)).to(torch.get_default_device())
            self.register_buffer("picked", picked, persistent=False)

    def forward(self, x: Tensor, grid: Grid, dtype: torch.dtype | None = None) -> Tensor:
        if self.sampling == "avg":
            return avg_pool(x, grid, landmark_grid(grid, self.count), dtype)
        x = x.to(dtype or x.dtype)
        if self.sampling in CONVOLVED:
            return self._convolve(x, grid)
        if self.sampling in _adaptive.SAMPLINGS:
            assert self.seed is not None
            return _adaptive.landmarks(x, self.sampling, self.count, self.seed)
        usual = math.prod(grid) == math.prod(self.built_for) and self.picked.device == x.device
        return x.index_select(2, self.picked if usual else self._pick(math.prod(grid)).to(x.device))

    def redraw(self) -> None:
        if "picked" in self._buffers:
            self.picked = self._pick(math.prod(self.built_for)).to(self.picked.device)

    def beside(self, x: Tensor, grid: Grid, dtype: torch.dtype, impl: str) -> tuple[Tensor, Tensor]:
        """The tokens, for one use that follows, and their landmarks in `dtype`; spares a gradient as large as x.

        The gradient of the tokens returned is written to, so they may be used once only.
        """
        to = landmark_grid(grid, self.count)
        if self.sampling != "avg" or to == grid or is_traced():
            return x, self(x, grid, dtype)
        if not needs_grad(x):
            return x, avg_pool(x, grid, to, dtype, impl)
        pair: tuple[Tensor, Tensor] = _PoolBeside.apply(x, grid, to, dtype, impl)
        return pair

    def _convolve(self, x: Tensor, grid: Grid) -> Tensor:
        b, h, _, d = x.shape
        window = self.conv.kernel_size[0], self.conv.kernel_size[1]
        positions = conv_positions(grid, self.sampling, window)
        image = x.mT.reshape(b * h, d, *grid)
        border = positions[1] * window[1] - grid[1], positions[0] * window[0] - grid[0]
        if max(border) > 0:
            image = F.pad(image, (0, border[0], 0, border[1]), mode="replicate")
        image = F.conv2d(image, self.conv.weight.to(x.dtype), stride=window)
        convolved = image.flatten(2).mT.unflatten(0, (b, h))
        pooled = avg_pool(convolved, positions, conv_landmark_grid(grid, self.sampling, self.count, window))
        weight, bias = self.norm.weight.to(x.dtype), self.norm.bias.to(x.dtype)
        return F.gelu(F.layer_norm(pooled, (d,), weight, bias, self.norm.eps))

    def _pick(self, tokens: int) -> Tensor:
        count = min(self.count, tokens)
        if self.sampling == "first":
            return torch.arange(count, device="cpu")
        if self.sampling == "strided":
            return torch.arange(count, device="cpu") * tokens // count
        assert self.seed is not None
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(tokens, generator=generator, device="cpu")[:count].sort().values


def conv_window(grid: Grid, count: int, window: int = 0) -> Grid:
    """Return the kernel and the stride of the convolution that samples landmarks."""
    if window:
        return window, window
    to = landmark_grid(grid, count)
    return grid[0] // to[0], grid[1] // to[1]


def conv_positions(grid: Grid, sampling: str, window: Grid) -> Grid:
    """Rows and columns of the map that this convolution gives.

    Raises:
        UsageError: `conv_ratio` on a grid without one whole window.
    """
    if sampling == "conv":
        return -(-grid[0] // window[0]), -(-grid[1] // window[1])
    rows, cols = grid[0] // window[0], grid[1] // window[1]
    if not rows or not cols:
        raise UsageError(f"sampling=conv_ratio needs at least one window of {window[0]}x{window[1]} tokens; the grid is"
                         f" {grid[0]}x{grid[1]}. Use sampling=conv, or a larger image.")
    return rows, cols


def conv_landmark_grid(grid: Grid, sampling: str, count: int, window: Grid) -> Grid:
    """Rows and columns of the landmarks that a convolution gives."""
    positions = conv_positions(grid, sampling, window)
    return landmark_grid(positions, count) if sampling == "conv" else positions


def sampling_flops(grid: Grid, sampling: str, count: int, head_dim: int, window: int = 0) -> float:
    """Operations to make the landmarks of one head; pooling and picking have none that are counted."""
    if sampling in _adaptive.SAMPLINGS:
        return _adaptive.flops(math.prod(grid), sampling, count, head_dim)
    if sampling not in CONVOLVED:
        return 0.0
    size = conv_window(grid, count, window)
    return 2.0 * head_dim**2 * math.prod(size) * math.prod(conv_positions(grid, sampling, size))
