"""Window attention: softmax attention among the tokens of one window of the token grid, as in Swin.

y_i = sum_{j in w(i)} softmax_j(q_i k_j / sqrt(D)) v_j, with w(i) the tokens whose row and column, less `shift` and
divided by `size`, round down to the same whole numbers. Exact softmax among them; its own kernel as a whole, as no
token sees beyond its window in one layer. Work 2 N s^2 (D + E) operations for windows of s x s tokens, whose scores are
the only memory beyond copies of q, k and v in the order of windows.

Along an axis no longer than `size` the window is as long as the axis and is not shifted. A grid that windows do not
divide is filled up at its bottom and right with tokens that none of its own sees. Swin alternates layers of `shift` 0
and 3 and adds a learnt bias by relative position to the scores; here `shift` is an option of the whole attention, and
there is no bias, which belongs to a model.

Causal, the window slides along the tokens in their order, as there are no rows and columns to a sequence: token i sees
the `size` tokens that end with itself, and there is no shift.

Source: Liu et al., Swin Transformer, ICCV 2021 (arXiv 2103.14030), section 3.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention import _blocks
from softbench.case import Shape
from softbench.contracts.attention import Cost
from softbench.errors import UsageError
from softbench.options import option

FAMILY = "sparse"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "either"
IMPLS = ("sdpa", "math")


@dataclass(frozen=True)
class Options:
    size: int = option(7, "rows and columns of a window, in tokens", low=1, high=1024)
    shift: int = option(0, "rows and columns by which windows are shifted (Swin: 0 and size // 2 in turns)", low=0,
                        high=1023)

    def __post_init__(self) -> None:
        if self.shift >= self.size:
            raise UsageError(f"shift must be less than size ({self.size}), not {self.shift}.")


class Window(nn.Module):
    def __init__(self, options: Options, impl: str) -> None:
        super().__init__()
        self.options, self.impl = options, impl

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        axes = [_Axis(length, self.options) for length in grid]
        size = axes[0].size * axes[1].size
        windows = _blocks.Band(0, axes[0].count * axes[1].count, size, 0, size, mask=_mask(axes, q.device))
        y = _blocks.attend(_split(q, axes), _split(k, axes), _split(v, axes), [windows], self.impl)
        return _join(y, axes, v.shape)


class Sliding(nn.Module):
    """Token i sees tokens i - size + 1 to i."""

    def __init__(self, size: int, impl: str) -> None:
        super().__init__()
        self.size, self.impl = size, impl

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        parts = [replace(part, mask=self._mask(part, q.device)) for part in _sliding(q.shape[2], self.size)]
        queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))  # [G, N, D]
        return _blocks.attend(queries, keys, values, parts, self.impl).view(v.shape)

    def _mask(self, part: _blocks.Band, device: torch.device) -> Tensor:
        """[1, 1, length, keys], the same for all blocks of the part."""
        i = torch.arange(part.start, part.start + part.length, device=device).unsqueeze(1)
        j = torch.arange(part.first, part.first + part.keys, device=device)
        return ((j <= i) & (j > i - self.size))[None, None]


def _sliding(tokens: int, size: int) -> Iterator[_blocks.Band]:
    """Blocks one by one where the beginning or the end is near, and the others in one part."""
    length, start = min(256, max(64, size)), 0
    while start < tokens:
        first, queries = max(0, start - size + 1), min(length, tokens - start)
        inside = max(1, (tokens - start) // length) if start >= size - 1 else 1
        yield _blocks.Band(start, inside, queries, first, start + queries - first)
        start += inside * queries


class _Axis:
    """How one axis of the grid is cut: `count` windows of `size` tokens, the last filled up, begin at `shift`."""

    def __init__(self, length: int, options: Options) -> None:
        self.length = length
        self.size = min(length, options.size)
        self.count = -(-length // self.size)
        self.shift = options.shift if self.size == options.size < length else 0
        self.spare = self.count * self.size - length

    def window_of(self, device: torch.device) -> Tensor:
        """Which window each place belongs to [count, size], after the roll; -2 where there is no token."""
        place = torch.arange(self.count * self.size, device=device)
        window = torch.div(place - self.shift, self.size, rounding_mode="floor")
        return window.masked_fill(place >= self.length, -2).roll(-self.shift).view(self.count, self.size)


def _split(x: Tensor, axes: list[_Axis]) -> Tensor:
    """Return tokens [B, H, N, D] in the order of windows, [B H, windows * size, D]."""
    rows, cols = axes
    image = x.reshape(-1, rows.length, cols.length, x.shape[-1])
    if rows.spare or cols.spare:
        image = F.pad(image, (0, 0, 0, cols.spare, 0, rows.spare))
    if rows.shift or cols.shift:
        image = image.roll((-rows.shift, -cols.shift), (1, 2))
    windows = image.unflatten(2, (cols.count, cols.size)).unflatten(1, (rows.count, rows.size)).transpose(2, 3)
    return windows.reshape(len(image), math.prod(windows.shape[1:5]), x.shape[-1])


def _join(y: Tensor, axes: list[_Axis], shape: torch.Size) -> Tensor:
    """The inverse of `_split`."""
    rows, cols = axes
    windows = y.view(len(y), rows.count, cols.count, rows.size, cols.size, y.shape[-1]).transpose(2, 3)
    image = windows.reshape(len(y), rows.count * rows.size, cols.count * cols.size, y.shape[-1])
    if rows.shift or cols.shift:
        image = image.roll((rows.shift, cols.shift), (1, 2))
    return image[:, :rows.length, :cols.length].reshape(shape)


def _mask(axes: list[_Axis], device: torch.device) -> Tensor | None:
    """Which tokens of a window see each other [1, windows, size, size]; None where all do."""
    if not any(axis.shift or axis.spare for axis in axes):
        return None
    rows, cols = (axis.window_of(device) for axis in axes)
    by_row, by_col = (x.unsqueeze(-1) == x.unsqueeze(-2) for x in (rows, cols))  # [count, size, size]
    visible = by_row[:, None, :, None, :, None] & by_col[None, :, None, :, None, :]
    return visible.reshape(1, len(rows) * len(cols), rows.shape[1] * cols.shape[1], -1)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Sliding(options.size, impl) if shape.causal else Window(options, impl)


def fits(shape: Shape, options: Options) -> str:
    """A window that slides is not shifted."""
    return "its window slides where it is causal, and is not shifted" if shape.causal and options.shift else ""


def cost(shape: Shape, options: Options) -> Cost:
    rows, cols = (_Axis(length, options) for length in shape.grid)
    groups, size = shape.batch * shape.heads, rows.size * cols.size
    if shape.causal:
        pairs = _counted(shape.tokens, options.size)
        return Cost(flops=4.0 * groups * pairs * shape.head_dim, elements=groups * shape.tokens * shape.head_dim)
    places = rows.count * cols.count * size
    return Cost(flops=4.0 * groups * places * size * shape.head_dim,
                elements=4.0 * groups * places * shape.head_dim + places * size)


def _counted(tokens: int, size: int) -> int:
    """The pairs of all blocks of a window that slides, those that are masked too."""
    return sum(part.blocks * part.length * part.seen for part in _sliding(tokens, size))


def avoidable(shape: Shape, options: Options) -> float:
    """Where the window slides, the pairs of its blocks that are masked."""
    if not shape.causal:
        return 0.0
    tokens, size = shape.tokens, min(shape.tokens, options.size)
    visible = tokens * size - size * (size - 1) // 2
    return 4.0 * shape.batch * shape.heads * (_counted(tokens, options.size) - visible) * shape.head_dim


def note(shape: Shape, options: Options) -> str:
    whole = (shape.tokens if shape.causal else max(shape.grid)) <= options.size
    return f"exact softmax: one window holds all {shape.tokens} tokens" if whole else ""
