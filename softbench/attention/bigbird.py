"""BigBird: block-sparse softmax attention to the neighbouring blocks, to a few global blocks, and to random blocks.

Tokens stand in row-major order in blocks of b. A query in block i sees the tokens of the blocks
S(i) = {j : |i - j| <= w // 2} + globals + r blocks drawn at random from the others, and all tokens where i is global:
y_i = sum_{j in S} softmax_j(q_i k_j / sqrt(D)) v_j. Exact softmax within S; its own kernel as a whole. Work
4 N (w + g + r) b D operations and 4 g b N D for the global queries. With no more than w + g + r blocks nothing would be
saved, and all tokens see all, as in exact softmax.

Global are the first and the last block, in turns from both ends, as in the official code. The random blocks are drawn
for each head from `seed` alone, so that they are the same for any module of as many blocks; the official code draws
them otherwise (for the longest sequence, in plans by length). A last block that tokens do not fill is filled up with
tokens that none sees. The projections of the model are not part of it.

Source: Zaheer et al., Big Bird: Transformers for Longer Sequences, NeurIPS 2020 (arXiv 2007.14062), section 2 and
the appendix on the implementation; the defaults are those of its internal construction (ITC) in base models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention import _blocks
from softbench.attention._blocks import Band, Gathered
from softbench.attention._drawn import Drawn
from softbench.case import Shape
from softbench.contracts.attention import Cost
from softbench.errors import UsageError
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
    block: int = option(64, "tokens b of a block", low=1, high=65536)
    window: int = option(3, "neighbouring blocks w, its own among them (odd)", low=1, high=65535)
    globals: int = option(2, "global blocks g, in turns from the beginning and the end", low=0, high=65536)
    random: int = option(3, "random blocks r for each block and head", low=0, high=65536)
    seed: int = option(0, "seed of the random blocks", low=0)

    def __post_init__(self) -> None:
        if self.window % 2 == 0:
            raise UsageError(f"window must be odd, with as many blocks on both sides, not {self.window}.")

    @property
    def ends(self) -> tuple[int, int]:
        """Global blocks at the beginning and at the end."""
        return self.globals - self.globals // 2, self.globals // 2

    @property
    def seen(self) -> int:
        """How many blocks a query sees at most."""
        return self.window + self.globals + self.random


class BigBird(Drawn):
    drawn: Tensor

    def __init__(self, shape: Shape, options: Options, impl: str) -> None:
        super().__init__()
        self.options, self.impl, self.seed = options, impl, options.seed
        self.built_for = shape.heads, -(-shape.tokens // options.block)
        drawn = random_blocks(*self.built_for, options)
        self.register_buffer("drawn", drawn.to(torch.get_default_device()), persistent=False)  # [H, n - g, r]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        tokens, spare = q.shape[2], -q.shape[2] % self.options.block
        x = [t.flatten(0, 1).contiguous() for t in (q, k, v)]  # [G, N, D]
        if (tokens + spare) // self.options.block <= self.options.seen:
            return _blocks.attend(x[0], x[1], x[2], [Band(0, 1, tokens, 0, tokens)], self.impl).view(v.shape)
        if spare:
            x = [F.pad(t, (0, 0, 0, spare)) for t in x]
        y = _blocks.attend(x[0], x[1], x[2], self._parts(q), self.impl)
        return y[:, :tokens].reshape(v.shape)

    def _parts(self, q: Tensor) -> list[_blocks.Part]:
        """The global queries of both ends, with the others between them."""
        (batch, heads, tokens), device = q.shape[:3], q.device
        size, (head, tail) = self.options.block, self.options.ends
        n = -(-tokens // size)
        usual = (heads, n) == self.built_for and self.drawn.device == device
        drawn = self.drawn if usual else self._blocks(heads, n).to(device)
        near = torch.arange(head, n - tail, device=device).unsqueeze(1) + torch.arange(self.options.window,
                                                                                      device=device)
        near = near - self.options.window // 2
        ends = torch.tensor([*range(head), *range(n - tail, n)], dtype=torch.long, device=device)
        table = torch.cat([ends.expand(heads, len(near), -1), near.expand(heads, -1, -1), drawn], 2)  # [H, n - g, c]
        inside = (table >= head) & (table < n - tail)
        inside[:, :, :head + tail] = True
        table = table.clamp(0, n - 1)
        place = torch.arange(size, device=device)
        mask = (inside.unsqueeze(3) & (table.unsqueeze(3) * size + place < tokens)).flatten(2)  # [H, n - g, c b]
        sparse = Gathered(head * size, size, table.repeat(batch, 1, 1), mask.unsqueeze(2).repeat(batch, 1, 1, 1))
        parts: list[_blocks.Part] = [sparse]
        if head:
            parts.insert(0, Band(0, 1, head * size, 0, tokens))
        if tail:
            parts.append(Band((n - tail) * size, 1, tail * size, 0, tokens))
        return parts

    def redraw(self) -> None:
        self.drawn = self._blocks(*self.built_for).to(self.drawn.device)

    def _blocks(self, heads: int, blocks: int) -> Tensor:
        assert self.seed is not None
        return random_blocks(heads, blocks, replace(self.options, seed=self.seed))


def random_blocks(heads: int, blocks: int, options: Options) -> Tensor:
    """r different blocks for each block that is not global, neither global nor in its window [H, n - g, r].

    Floyd's draw without repetition: from the first m candidates one is taken, or the m-th where it is taken already.
    """
    if blocks <= options.seen:
        return torch.zeros(heads, 0, options.random, dtype=torch.long, device="cpu")
    head, tail = options.ends
    row = torch.arange(head, blocks - tail, device="cpu")
    low = (row - options.window // 2).clamp(min=head)
    wide = (row + options.window // 2 + 1).clamp(max=blocks - tail) - low
    count = blocks - head - tail - wide  # candidates of each row: those before its window, and those behind it
    generator = torch.Generator().manual_seed(options.seed)
    u = torch.rand(options.random, heads, len(row), generator=generator, dtype=torch.float64, device="cpu")
    chosen = torch.full((heads, len(row), options.random), -1, device="cpu")
    for i in range(options.random):
        last = (count - options.random + i).expand(heads, -1)
        draw = (u[i] * (last + 1)).long()
        taken = (chosen == draw.unsqueeze(2)).any(2)
        chosen[:, :, i] = torch.where(taken, last, draw)
    chosen = chosen + head
    return chosen + torch.where(chosen >= low[:, None], wide[:, None], 0)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return BigBird(shape, options, impl)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d, size = shape.batch * shape.heads, shape.tokens, shape.head_dim, options.block
    blocks = -(-n // size)
    if blocks <= options.seen:
        return Cost(flops=4.0 * groups * n**2 * d, elements=groups * n)
    others = blocks - options.globals
    pairs = options.globals * size * n + others * options.seen * size**2
    return Cost(flops=4.0 * groups * pairs * d, elements=groups * n * (d + options.seen * (1 + d / 4)))


def note(shape: Shape, options: Options) -> str:
    blocks = -(-shape.tokens // options.block)
    return f"exact softmax: {blocks} blocks, {options.seen} seen" if blocks <= options.seen else ""
