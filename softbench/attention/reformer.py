"""Reformer: softmax attention with shared queries and keys, among tokens that locality-sensitive hashing puts together.

Keys are the queries at length 1, k_j = q_j / |q_j|. A round hashes token i to the largest entry of [q_i R, -q_i R] for
a random R [D, c / 2], sorts tokens by hash, then by place, and cuts the row into c chunks of `bucket` tokens; a token
sees its own chunk and the one before it, C_r(i). Over all rounds r

    y_i = sum_r sum_{j in C_r(i)} exp(q_i k_j / sqrt(D)) v_j  /  sum_r sum_{j in C_r(i)} exp(q_i k_j / sqrt(D)),

the same as the rounds' outputs weighed by their sums of exponentials. A token sees itself only where it sees no other.
Its own kernel: an estimate of softmax attention with q for k only, which no other file here has. Sums are float32 for
half inputs. No gradient goes through the hash; `k` is not used.

Attention takes 8 r N b D operations for r rounds and buckets of b, sorting r N log N comparisons. The hash takes
r N^2 D / b: little next to the rest up to some ten thousand tokens, but it is why N log N holds only for hashes of more
than one factor, which the paper has for longest sequences and which are left out here.

Chunks stand for buckets, as in the paper's Figure 2, and tokens of other hashes in them are seen, as in the well-known
codes. As there, the first chunk of a round looks back at the last of the round before (of the last, for the first), and
pairs that meet in several rounds count as often; the paper takes off the logarithm of their number. A sequence that
chunks do not divide is filled up with tokens that none sees; with at most `bucket` tokens all see all.

Source: Kitaev et al., Reformer: The Efficient Transformer, ICLR 2020 (arXiv 2001.04451), section 2; 4 rounds are one
of the paper's settings, buckets of 64 the known codes' default.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention._drawn import Drawn
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.ops._common import needs_grad, once
from softbench.options import option

FAMILY = "sparse"
COMPLEXITY = "N log N"
APPROXIMATES = None
SHARES_QK = True
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("eager",)

_ITSELF = -1e9  # the score of a token with itself: less than any other, but more than none
_SCORES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Options:
    bucket: int = option(64, "tokens of a chunk, which stands for a bucket", low=1, high=65536)
    hashes: int = option(4, "rounds of hashing", low=1, high=64)
    seed: int = option(0, "seed of the rotations", low=0)


class Reformer(Drawn):
    rotations: Tensor

    def __init__(self, shape: Shape, options: Options) -> None:
        super().__init__()
        self.options, self.seed = options, options.seed
        self.built_for = shape.head_dim, _chunks(shape.tokens, options)[0]
        rotations = random_rotations(*self.built_for, options).to(torch.get_default_device())
        self.register_buffer("rotations", rotations, persistent=False)  # [r, D, buckets / 2]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, tokens, rounds = accumulation_dtype(q.dtype), q.shape[2], self.options.hashes
        x, values = q.flatten(0, 1).to(acc), F.pad(v.flatten(0, 1).to(acc), (0, 1), value=1.0)  # sums come along
        order = self._order(x.detach())  # [G, r, T]
        count, spare = _chunks(tokens, self.options)[0], order.shape[2] - tokens
        if spare:
            x, values = F.pad(x, (0, 0, 0, spare)), F.pad(values, (0, 0, 0, spare))
        groups, _, padded = order.shape
        # into the order of chunks and back, in rows of all G together
        base = torch.arange(groups, device=q.device)[:, None, None]
        there = (order + base * padded).flatten()
        rows = torch.arange(there.numel(), device=q.device).view(order.shape)
        back = torch.empty_like(order).scatter_(2, order, rows).transpose(0, 1).flatten()  # [r G T]
        place = order.view(groups, rounds * count, padded // count)
        x, values = (_sort(t, there, back, place.shape) for t in (x, values))
        sums, largest = self._in_chunks(x, values, place, tokens)
        unsorted = (order + base * padded + torch.arange(rounds, device=q.device)[:, None] * groups * padded).flatten()
        sums = _Moved.apply(sums.flatten(0, 2), back, unsorted, 1).view(rounds, groups, padded, sums.shape[3])
        largest = largest.flatten().index_select(0, back).view(rounds, groups, padded, 1)
        total = (sums * (largest - largest.amax(0)).exp()).sum(0)[:, :tokens]  # [G, N, E + 1]
        return (total[..., :-1] / total[..., -1:]).view(v.shape).to(v.dtype)

    def _order(self, x: Tensor) -> Tensor:
        """The tokens of each round in the order of chunks, with those that fill up at the end, [G, r, T]."""
        dim, tokens = x.shape[2], x.shape[1]
        count, size = _chunks(tokens, self.options)
        usual = (dim, count) == self.built_for and self.rotations.device == x.device
        rotations = self.rotations if usual else self._rotations(dim, count).to(x.device)
        orders = []
        for rotation in rotations.to(x.dtype):
            rotated = x @ rotation  # [G, N, buckets / 2]
            high, low = rotated.max(-1), rotated.min(-1)
            bucket = torch.where(high.values >= -low.values, high.indices, low.indices + rotation.shape[1])
            orders.append(bucket.sort(stable=True).indices)
        order = torch.stack(orders, 1)
        spare = torch.arange(tokens, count * size, device=x.device)
        return torch.cat([order, spare.expand(*order.shape[:2], -1)], 2) if len(spare) else order

    def _in_chunks(self, x: Tensor, v: Tensor, place: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """For all chunks [G, C, size, ...], sum_j exp(x_i k_j / sqrt(D) - m_i) v_j, and m_i = max_j x_i k_j / sqrt(D).

        The quotient of two such sums is the same for any m, so that no gradient goes through it.
        """
        count, size = place.shape[1:]
        keys = F.normalize(x, dim=-1)
        queries = x * x.shape[-1] ** -0.5
        step = count if needs_grad(x, v) else max(1, count // 8, _SCORES_AT_ONCE // (2 * size * size * max(1, len(x))))
        sums, largest = [], []
        for low in range(0, count, step):
            high = min(count, low + step)
            k, values, at = (_with_last(t, low, high) for t in (keys, v, place))
            scores = queries[:, low:high] @ k.mT  # [G, n, size, 2 size]
            itself = place[:, low:high].unsqueeze(-1) == at.unsqueeze(-2)
            scores = scores.masked_fill_(itself, _ITSELF)
            if tokens % size:
                scores = scores.masked_fill_((at >= tokens).unsqueeze(-2), -torch.inf)
            largest.append(scores.detach().amax(-1, keepdim=True))
            scores = scores.sub_(largest[-1]).exp_()
            sums.append(scores @ values)
        return torch.cat(sums, 1), torch.cat(largest, 1)

    def redraw(self) -> None:
        self.rotations = self._rotations(*self.built_for).to(self.rotations.device)

    def _rotations(self, dim: int, chunks: int) -> Tensor:
        assert self.seed is not None
        return random_rotations(dim, chunks, replace(self.options, seed=self.seed))


class _Moved(torch.autograd.Function):
    """Rows of x by an index that takes each of them `times` times; torch's own gradient adds row by row.

    `back` says where each row went, [times * rows], so that the gradient is a gather and a sum.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, times: int) -> Tensor:
        ctx.save_for_backward(back)
        ctx.times = times
        return x.index_select(0, index)

    @staticmethod
    @once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        moved = dy.index_select(0, back)
        return moved if ctx.times == 1 else moved.unflatten(0, (ctx.times, -1)).sum(0), None, None, None


def _sort(x: Tensor, there: Tensor, back: Tensor, shape: torch.Size) -> Tensor:
    """Return tokens [G, T, D] in the order of chunks [G, C, size, D]."""
    rows = x.reshape(-1, x.shape[-1])
    moved: Tensor = _Moved.apply(rows, there, back, shape[1] * shape[2] // x.shape[1])
    return moved.view(*shape, x.shape[-1])


def _with_last(x: Tensor, low: int, high: int) -> Tensor:
    """Return chunks low .. high [G, C, size, ...], each followed by the one before it."""
    before = x[:, low - 1:high - 1] if low else torch.cat([x[:, -1:], x[:, :high - 1]], 1)
    return torch.cat([x[:, low:high], before], 2)


def _chunks(tokens: int, options: Options) -> tuple[int, int]:
    """How many chunks a round has, and tokens of a chunk."""
    size = min(options.bucket, tokens)
    return -(-tokens // size), size


def random_rotations(dim: int, chunks: int, options: Options) -> Tensor:
    """R of each round, [r, D, buckets / 2]: as many buckets as chunks, rounded up to an even number."""
    generator = torch.Generator().manual_seed(options.seed)
    return torch.randn(options.hashes, dim, -(-chunks // 2), generator=generator, device="cpu")


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Reformer(shape, options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d, rounds = shape.batch * shape.heads, shape.tokens, shape.head_dim, options.hashes
    count, size = _chunks(n, options)
    hashing = 2.0 * n * d * -(-count // 2)
    attending = 2.0 * count * size * 2 * size * (2 * d + 1)
    return Cost(flops=groups * rounds * (hashing + attending), elements=groups * rounds * count * size * (7.5 * d))
