"""Longformer: softmax attention to the tokens within a distance, and to a few global tokens that see all.

y_i = sum_{j in S(i)} softmax_j(q_i k_j / sqrt(D)) v_j with S(i) = {j : |i - j| <= w or j < g}, and S(i) all tokens for
i < g. Tokens stand in row-major order, so that the band joins the end of a row with the start of the next. Exact
softmax within S; its own kernel as a whole. Work 4 N (2 w + b + g) D operations, b the length of a block of queries,
about w / 2: the keys of a block are a view of k unless there are global tokens, and no score outlives its block, but in
training where a query sees few keys: up to 3 D of them, weights are kept for the backward.

The paper's window counts both sides: its 512 is `window` 256 here. Which tokens are global depends on the task; for
classification it is the first, so that `globals` is 1. The paper gives global tokens projections of their own, which
an attention without projections cannot; dilation is left out, as in the paper's models but those for characters.

Source: Beltagy et al., Longformer, 2020 (arXiv 2004.05150), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from softbench.attention import _blocks
from softbench.attention._blocks import Band
from softbench.case import Shape
from softbench.contracts.attention import Cost
from softbench.options import option

FAMILY = "sparse"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("sdpa", "math")


@dataclass(frozen=True)
class Options:
    window: int = option(256, "one-sided window w: tokens seen on either side", low=0, high=1 << 20)
    globals: int = option(1, "global tokens g, the first ones, which see all and are seen by all", low=0, high=65536)


class Longformer(nn.Module):
    def __init__(self, options: Options, impl: str) -> None:
        super().__init__()
        self.options, self.impl = options, impl

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))  # [G, N, D]
        parts = [replace(part, mask=self._mask(part, q.device)) for part in _parts(math.prod(grid), self.options)]
        return _blocks.attend(queries, keys, values, parts, self.impl).view(v.shape)

    def _mask(self, part: Band, device: torch.device) -> Tensor | None:
        """[1, 1, length, extra + keys], the same for all blocks of the part; None where all is seen."""
        if part.start + part.length <= self.options.globals:
            return None
        i = torch.arange(part.start, part.start + part.length, device=device)
        j = torch.arange(part.first, part.first + part.keys, device=device)
        near = ((i.unsqueeze(1) - j).abs() <= self.options.window).logical_or(j < self.options.globals)
        return torch.cat([near.new_ones(part.length, part.extra), near], 1)[None, None]


def _parts(tokens: int, options: Options) -> Iterator[Band]:
    """The global queries, then blocks one by one where an end of the sequence is near, and the others in one part."""
    w, g = options.window, min(options.globals, tokens)
    if g:
        yield Band(0, 1, g, 0, tokens)
    length = min(256, max(64, w // 2))
    start = g
    while start < tokens:
        first, end = max(0, start - w), min(tokens, start + length + w)
        if first <= g:  # global tokens stand before the others without a gap
            yield Band(start, 1, min(length, tokens - start), 0, end)
            start += length
        else:
            inside = max(1, (tokens - w - start) // length)  # blocks whose last query has w tokens after it
            yield Band(start, inside, min(length, tokens - start), first, end - first, extra=g)
            start += inside * length


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Longformer(options, impl)


def cost(shape: Shape, options: Options) -> Cost:
    groups, d = shape.batch * shape.heads, shape.head_dim
    parts = list(_parts(shape.tokens, options))
    pairs = sum(part.blocks * part.length * part.seen for part in parts)
    copied = sum(2.0 * part.blocks * part.seen for part in parts if part.copies) / 8  # an eighth of the blocks at once
    return Cost(flops=4.0 * groups * pairs * d, elements=groups * d * (shape.tokens + copied))


def note(shape: Shape, options: Options) -> str:
    if shape.tokens > max(options.window + 1, options.globals):
        return ""
    return f"exact softmax: each of the {shape.tokens} tokens sees all"
