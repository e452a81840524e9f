"""Attention through landmarks in plain torch, y = P^T M P v: one block of heads at a time, from tokens to output.

With tokens s x_i and landmarks l_j, P_ji = exp(-|l_j - s x_i|^2 / 2), and for each head
    g = P v [m, E],    w = M g [m, E],    y = P^T w [N, E].
A head's scores are needed by itself alone. They are computed in place in a buffer that fits the cache, used for g and
for y, and overwritten by those of the next heads; where the scores of one head are more than KEPT, they are computed
twice, a slice of tokens at a time. Nothing but y is as long as all tokens. The gradients,
    dw = P dy,    dM = dw g^T,    dg = M^T dw,    dv = P^T dg,    W = P * (w dy^T + dg v^T) [m, N],
    dx_i = s sum_j W_ji (l_j - s x_i),    dl_j = sum_i W_ji (s x_i - l_j),
take the same way, with the scores computed anew.

Distances come from one matrix product, and keep their digits for tokens of any length (`_distances`). Exponents are
bounded from below, where the scores would come near the subnormal numbers, which slow matrix products tenfold: a score
is at least 4e-31 in float32, and at most 1.

Batch and heads are flattened here: x [G, N, D], landmarks [G, m, D], middle [G, m, m], v [G, N, E] with G = B * H.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from softbench.ops._common import is_traced, needs_grad, once
from softbench.ops.gaussian_attention._distances import Centred, Pairs, by_reach, centred, half_square, mend

KEPT = 1 << 22  # scores held at once, 16 MiB in float32: glibc keeps blocks of this size when they are freed
ROWS = 1 << 15  # tokens of a slice of all heads in a block: enough for the threads to share, few enough to bound memory
FEW = 1 << 13  # tokens that a block may have in any case; beyond it heads make at least PARTS blocks, so that the
PARTS = 4  # workspace stays a share of the tokens
_NEAR_SUBNORMAL = 0.8  # share of the exponents of a dtype that scores may use; products have the rest


def by_landmarks(x: Tensor, landmarks: Tensor, middle: Tensor, v: Tensor, scale: float) -> Tensor:
    """P^T M P v; x [B, H, N, D], landmarks [B, H, m, D], middle [B, H, m, m], v [B, H, N, E] -> [B, H, N, E] like v.

    x and v may be in half precision, landmarks and middle are in the dtype of the arithmetic.
    """
    flat = x.flatten(0, 1), landmarks.flatten(0, 1), middle.flatten(0, 1), v.flatten(0, 1)
    return _through(*flat, scale=scale).view(*v.shape)


def _through(x: Tensor, landmarks: Tensor, middle: Tensor, v: Tensor, *, scale: float) -> Tensor:
    keys = centred(landmarks)
    if keys.far is not None and landmarks.dtype != torch.float64:
        run = partial(_through, scale=scale)
        return by_reach(run, lambda x, points, middle, v: run(x, points.double(), middle.double(), v), keys.far,
                        x, landmarks, middle, v)
    if not needs_grad(x, landmarks, middle, v):
        return _forward(x, keys, middle, v, scale)[0]
    y: Tensor = _Through.apply(x, landmarks, middle, v, scale, None if is_traced() else keys)
    return y


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, landmarks: Tensor, middle: Tensor, v: Tensor, scale: float,
                keys: Centred | None) -> Tensor:
        keys = keys or centred(landmarks)  # a traced function takes no tensors beside its arguments
        y, gathered = _forward(x, keys, middle, v, scale)
        ctx.save_for_backward(x, middle, v, gathered)
        ctx.scale, ctx.keys = scale, keys
        return y

    @staticmethod
    @once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, middle, v, gathered = ctx.saved_tensors
        return *_backward(x, ctx.keys, middle, v, gathered, dy, ctx.scale, ctx.needs_input_grad), None, None


@dataclass
class _Scores:
    """The scores of a block of heads, computed a slice of tokens at a time, when they are asked for.

    Attributes:
        x: [d, N, D], in any floating dtype.
        offset: minus the centre of the landmarks, [d, 1, D].
        points: the landmarks moved by it, [d, m, D].
        bias: minus half their squared norms, [d, m, 1].
        far: whether one product may not be enough for some of them.
        tokens: room for a slice of n moved tokens, [d, n, D].
        scores: room for the scores of all tokens, [d, m, N], which are then computed once, or of a slice. A row is a
            landmark: with the few landmarks side by side, products with values are slower.
    """

    x: Tensor
    offset: Tensor
    points: Tensor
    bias: Tensor
    far: bool
    scale: float
    tokens: Tensor
    scores: Tensor
    known: int = 0

    def slices(self) -> Iterator[slice]:
        """Yield the tokens, a slice at a time."""
        length, rows = self.x.shape[1], self.tokens.shape[1]
        return (slice(start, min(start + rows, length)) for start in range(0, length, rows))

    def moved(self, n: slice) -> Tensor:
        """s x less the centre, [d, n, D]; good until the next call."""
        return torch.add(self.offset, self.x[:, n], alpha=self.scale, out=self.tokens[:, :n.stop - n.start])

    def of(self, n: slice) -> Tensor:
        """P of these tokens, [d, m, n]; good until the next call, or for all the block where there is room."""
        kept = self.scores.shape[2] == self.x.shape[1]
        out = self.scores[:, :, n if kept else slice(n.stop - n.start)]
        if not kept or n.stop > self.known:
            tokens = self.moved(n)
            half = half_square(tokens)
            torch.sub(self.bias, half.unsqueeze(1), out=out)
            out.baddbmm_(self.points, tokens.mT)
            if self.far:
                mend(out, Pairs(self.points, tokens, -self.bias.squeeze(2), half, self.far))
            out.clamp_(min=_lowest(out.dtype), max=0).exp_()
            self.known = n.stop
        return out


def _blocks(x: Tensor, keys: Centred, scale: float, held: int) -> Iterator[tuple[slice, _Scores]]:
    """Blocks of as many heads as a slice holds, one head at least; `held` is how many scores a token has at once."""
    (groups, length, dim), count = x.shape, keys.k.shape[1]
    if x.device.type == "cpu":
        most = ROWS // held
        rows = max(1, -(-length // max(1, -(-length // most))))  # slices of the same length
        share = max(groups // (PARTS * held), FEW // held // rows)
        depth, kept = max(1, min(groups, share, most // rows)), length if length * count <= KEPT else rows
    else:  # a GPU needs all of it in one launch
        rows, depth, kept = length, groups, length
    offset, bias, far = -keys.centre, -keys.half_square.unsqueeze(2), keys.far is not None
    tokens, scores = keys.k.new_empty(depth, rows, dim), keys.k.new_empty(depth, count, kept)
    for start in range(0, groups, depth):
        block = slice(start, min(start + depth, groups))
        size = block.stop - start
        yield block, _Scores(x[block], offset[block], keys.k[block], bias[block], far, scale,
                             tokens[:size], scores[:size])


def _forward(x: Tensor, keys: Centred, middle: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """y, and g [G, m, E], which the gradients need."""
    acc = middle.dtype
    y = torch.empty_like(v, memory_format=torch.contiguous_format)
    gathered = middle.new_zeros(*middle.shape[:2], v.shape[2])
    for block, scores in _blocks(x, keys, scale, 1):
        for n in scores.slices():
            gathered[block].baddbmm_(scores.of(n), v[block, n].to(acc))
        w = torch.bmm(middle[block], gathered[block])
        for n in scores.slices():
            _product(scores.of(n).mT, w, y[block, n])
    return y, gathered


def _backward(x: Tensor, keys: Centred, middle: Tensor, v: Tensor, gathered: Tensor, dy: Tensor, scale: float,
              needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """The gradients by x, landmarks, middle and v, those that are needed."""
    acc = middle.dtype
    dx, dl, dm, dv = (torch.empty_like(t, memory_format=torch.contiguous_format) if by else None
                      for t, by in zip((x, keys.k, middle, v), needed, strict=False))
    if dl is not None:
        dl.zero_()
    for block, scores in _blocks(x, keys, scale, 2):  # W takes as much room again
        dw = torch.zeros_like(gathered[block])
        for n in scores.slices():
            dw.baddbmm_(scores.of(n), dy[block, n].to(acc))
        if dm is not None:
            torch.bmm(dw, gathered[block].mT, out=dm[block])
        w, dg = torch.bmm(middle[block], gathered[block]), torch.bmm(middle[block].mT, dw)
        for n in scores.slices():
            p = scores.of(n)
            if dv is not None:
                _product(p.mT, dg, dv[block, n])
            if dx is None and dl is None:
                continue
            weights = torch.bmm(w, dy[block, n].to(acc).mT)
            weights.baddbmm_(dg, v[block, n].to(acc).mT).mul_(p)  # [d, m, n]
            tokens = scores.moved(n)
            if dl is not None:
                dl[block].baddbmm_(weights, tokens).addcmul_(weights.sum(2, keepdim=True), scores.points, value=-1)
            if dx is not None:
                tokens.mul_(weights.sum(1).unsqueeze(2)).baddbmm_(weights.mT, scores.points, beta=-1)
                torch.mul(tokens, scale, out=dx[block, n])
    return dx, dl, dm, dv


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """left @ right into `out`, which may be in half precision."""
    if out.dtype == left.dtype:
        torch.bmm(left, right, out=out)
    else:
        out.copy_(torch.bmm(left, right))


def _lowest(dtype: torch.dtype) -> float:
    return _NEAR_SUBNORMAL * math.log(torch.finfo(dtype).tiny)
