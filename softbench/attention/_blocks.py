"""Softmax attention in blocks: a few consecutive queries, each against the same short list of keys.

Shapes: G = batch * heads; tokens q [G, N, D], k [G, T, D], v [G, T, E]. A `Band` or a `Gathered` says which queries
make its n blocks of b, and which s keys each block sees. `sdpa` is torch's fused call; its backward on CPUs is slow on
many short blocks, and is replaced there by one that goes through a few blocks at a time and adds to the gradients of
the tokens where they stand. It has the weights from the forward where those are few, and makes them anew elsewhere.
`math` writes the scores out in float32 and is differentiated by torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softbench.attention._softmax import softmax_attention
from softbench.contracts.attention import accumulation_dtype
from softbench.ops._common import is_traced, needs_grad, once

IMPLS = ("sdpa", "math")

_SCORES_AT_ONCE = 1 << 18  # a MiB in float32: they stay in the caches of two cores, and are work enough for both
_KEPT = 3  # weights are kept for the backward where a query has no more than 3 D: then they are as large as q, k, v
_COPIED_AT_ONCE = 1 << 15  # keys, of all G together


@dataclass(frozen=True)
class Band:
    """`blocks` runs of `length` queries from token `start` on; the keys of each run begin `length` after the last's.

    Attributes:
        first, keys: the first run's keys are tokens first .. first + keys.
        extra: so many tokens from the beginning stand before the keys of each run.
        mask: which keys each query sees [1, n or 1, length, extra + keys], at least one; None: all.
    """

    start: int
    blocks: int
    length: int
    first: int
    keys: int
    extra: int = 0
    mask: Tensor | None = None

    @property
    def seen(self) -> int:
        return self.extra + self.keys

    @property
    def copies(self) -> bool:
        """True where the keys of blocks are copied, not viewed."""
        return self.extra > 0

    @property
    def shares(self) -> bool:
        """True where blocks have keys in common."""
        return self.keys != self.length or self.extra > 0

    def select(self, x: Tensor, at: At) -> Tensor:
        """Return the keys of some blocks, [G, T, D] -> [G', n', s, D]."""
        first = self.first + at.low * self.length
        x = x[at.group:at.last]
        keys = x[:, first:first + (at.blocks - 1) * self.length + self.keys].unfold(1, self.keys, self.length).mT
        if self.extra:
            keys = torch.cat([x[:, None, :self.extra].expand(-1, at.blocks, -1, -1), keys], 2)
        return keys

    def add(self, dx: Tensor, d: Tensor, at: At) -> None:
        """Add to dx [G, T, D] the gradient d [G', n', s, D] of keys of some blocks, or put it where none are shared."""
        first = self.first + at.low * self.length
        dx = dx[at.group:at.last]
        if not self.shares:
            dx[:, first:first + at.blocks * self.keys].unflatten(1, (at.blocks, self.keys)).copy_(d)
            return
        if self.extra:
            dx[:, :self.extra] += d[:, :, :self.extra].sum(1)
        step = self.length if at.blocks > 1 else self.keys  # so that what is added to at once does not overlap
        for begin in range(0, self.keys, step):
            width = min(step, self.keys - begin)
            place = dx[:, first + begin:first + begin + (at.blocks - 1) * step + width]
            place.unfold(1, width, step).mT.add_(d[:, :, self.extra + begin:self.extra + begin + width])


@dataclass(frozen=True)
class Gathered:
    """Blocks of `length` queries from token `start` on, each of which sees some blocks of as many keys.

    Attributes:
        table: which blocks of keys each block of queries sees, [G, n, c].
        mask: which keys each query sees [G, n, 1, c * length], at least one; None: all.
    """

    start: int
    length: int
    table: Tensor
    mask: Tensor | None = None
    copies = shares = True

    @property
    def blocks(self) -> int:
        return self.table.shape[1]

    @property
    def seen(self) -> int:
        return self.table.shape[2] * self.length

    def select(self, x: Tensor, at: At) -> Tensor:
        """The keys of some blocks, [G, T, D] -> [G', n', s, D]; T is a multiple of `length`, and x contiguous."""
        chosen = x.view(-1, self.length * x.shape[2]).index_select(0, self._index(x, at))
        return chosen.view(-1, at.blocks, self.seen, x.shape[2])

    def add(self, dx: Tensor, d: Tensor, at: At) -> None:
        """Add to dx [G, T, D] the gradient d [G', n', s, D] of the keys of some blocks."""
        width = self.length * dx.shape[2]
        dx.view(-1, width).index_add_(0, self._index(dx, at), d.reshape(-1, width))

    def _index(self, x: Tensor, at: At) -> Tensor:
        groups = torch.arange(at.group, at.last, device=x.device)[:, None, None]
        return (self.table[at.group:at.last, at.low:at.high] + groups * (x.shape[1] // self.length)).flatten()


Part = Band | Gathered


@dataclass(frozen=True)
class At:
    """Blocks low .. high of the matrices group .. last."""

    group: int
    last: int
    low: int
    high: int

    @property
    def blocks(self) -> int:
        return self.high - self.low

    def queries(self, x: Tensor, part: Part) -> Tensor:
        """[G, N, D] -> [G', n', b, D], a view."""
        first = part.start + self.low * part.length
        some = x[self.group:self.last, first:first + self.blocks * part.length]
        return some.unflatten(1, (self.blocks, part.length))

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """[G or 1, n or 1, b or 1, s] -> [G' or 1, n' or 1, b or 1, s]."""
        if mask is None:
            return None
        some = mask if len(mask) == 1 else mask[self.group:self.last]
        return some if some.shape[1] == 1 else some[:, self.low:self.high]


def attend(q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], impl: str) -> Tensor:
    """softmax(q k^T / sqrt(D)) v in each block, one after the other [G, n b of all parts, E].

    Args:
        parts: together, they take every query once and in order.
        impl: one of `IMPLS`.
    """
    if impl == "sdpa" and q.device.type == "cpu" and needs_grad(q, k, v) and not is_traced():
        y: Tensor = _Blocks.apply(q, k, v, parts)
        return y
    return _forward(q, k, v, parts, impl)


def _forward(q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], impl: str) -> Tensor:
    ys = []
    for part in parts:
        # copies of keys are bounded, but where autograd would keep them all and add up gradients of the whole
        bounded = part.copies and not needs_grad(q, k, v)
        step = max(1 + _COPIED_AT_ONCE // (max(1, len(q)) * part.seen), part.blocks // 8) if bounded else part.blocks
        for at in _places(len(q), part.blocks, len(q), step):
            keys, values = part.select(k, at), part.select(v, at)
            ys.append(softmax_attention(at.queries(q, part), keys, values, impl, at.mask(part.mask)).flatten(1, 2))
    return ys[0] if len(ys) == 1 else torch.cat(ys, 1)


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part]) -> Tensor:
        ctx.parts = parts
        if any(part.seen > _KEPT * q.shape[-1] for part in parts):
            ctx.save_for_backward(q, k, v)
            return _forward(q, k, v, parts, "sdpa")
        y, kept = torch.empty(*q.shape[:2], v.shape[-1], dtype=v.dtype, device=v.device), []
        for part, at in _steps(q, parts):
            kept.append(_weights(q, k, part, at))
            at.queries(y, part).copy_(kept[-1] @ part.select(v, at).to(kept[-1].dtype))
        ctx.save_for_backward(q, k, v, *kept)
        return y

    @staticmethod
    @once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        acc, scale = accumulation_dtype(q.dtype), q.shape[-1] ** -0.5
        dq = torch.empty(q.shape, dtype=acc, device=q.device)  # each is written once, while keys may be shared
        own = len(ctx.parts) == 1 and not ctx.parts[0].shares and k.shape[1] == q.shape[1]
        dk, dv = ((torch.empty if own else torch.zeros)(x.shape, dtype=acc, device=x.device) for x in (k, v))
        for place, (part, at) in enumerate(_steps(q, ctx.parts)):
            weights = kept[place] if kept else _weights(q, k, part, at)
            gradient, values = at.queries(dy, part).to(acc), part.select(v, at).to(acc)
            part.add(dv, weights.mT @ gradient, at)
            dscores = torch._softmax_backward_data(gradient @ values.mT, weights, -1, acc).mul_(scale)
            at.queries(dq, part).copy_(dscores @ part.select(k, at).to(acc))
            part.add(dk, dscores.mT @ at.queries(q, part).to(acc), at)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None


def _weights(q: Tensor, k: Tensor, part: Part, at: At) -> Tensor:
    """softmax(q k^T / sqrt(D)) of some blocks [G', n', b, s], in float32 for half precision."""
    acc = accumulation_dtype(q.dtype)
    scores = (at.queries(q, part).to(acc) @ part.select(k, at).to(acc).mT).mul_(q.shape[-1] ** -0.5)
    mask = at.mask(part.mask)
    return scores.softmax(-1) if mask is None else scores.masked_fill_(~mask, -math.inf).softmax(-1)


def _steps(q: Tensor, parts: Sequence[Part]) -> Iterator[tuple[Part, At]]:
    """Blocks of all parts, so many at once that their scores stay in the cache."""
    for part in parts:
        step = max(1, _SCORES_AT_ONCE // (part.length * part.seen))
        for at in _places(len(q), part.blocks, max(1, step // part.blocks), step):
            yield part, at


def _places(groups: int, blocks: int, group_step: int, step: int) -> Iterator[At]:
    for group in range(0, max(1, groups), max(1, group_step)):  # of no groups there are empty places
        for low in range(0, blocks, step):
            yield At(group, min(groups, group + group_step), low, min(blocks, low + step))
