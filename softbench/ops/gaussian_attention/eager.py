"""Gaussian attention in plain torch: tiled, so that the scores of all tokens are never held at once.

With W_ij = exp(-|x_i - k_j|^2 / 2) (dy_i . v_j), the gradients are
    dv_j = sum_i exp(-|x_i - k_j|^2 / 2) dy_i,    dx_i = sum_j W_ij (k_j - x_i),    dk_j = sum_i W_ij (x_i - k_j),
and the backward recomputes each tile of scores instead of storing it.

Distances are |x|^2 + |k|^2 - 2 x.k by one matrix product. A distance does not change when both sides move together,
so both are first moved by the mean of k: tokens with a large offset in common would otherwise lose all their digits.

Batch and heads are flattened here: x [G, N, D], k [G, M, D], v [G, M, E] with G = B * H groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from softbench.ops._common import needs_grad, once, widened
from softbench.ops.gaussian_attention._by_landmarks import by_landmarks as by_landmarks

TILE = 1 << 19  # scores held at once: 2 MiB in float32, which stay in the cache between the steps
_SIDE = 512  # keys in a tile
_TILE_ON_GPU, _SIDE_ON_GPU = 1 << 26, 2048  # 256 MiB: a GPU needs more work in one launch


def kernel(x: Tensor, k: Tensor) -> Tensor:
    """The scores themselves; x [B, H, N, D], k [B, H, M, D] -> [B, H, N, M], float32 for half inputs.

    Where k is x, the squared norms come from the product's own diagonal: the scores of a token with itself are 1.
    """
    x_flat, k_flat = _flat(x), None if k is x else _flat(k)
    scores: Tensor = _Kernel.apply(x_flat, k_flat) if needs_grad(x, k) else _kernel(x_flat, k_flat)[-1]
    return scores.view(*x.shape[:2], *scores.shape[1:])


def attention(x: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The weighted sums; v [B, H, M, E] -> [B, H, N, E] in the dtype of v."""
    flat = _flat(x), _flat(k), _flat(v)
    y = _Attention.apply(*flat) if needs_grad(x, k, v) else _attend(*_centred(*flat[:2]), flat[2])
    return y.view(*x.shape[:2], *y.shape[1:]).to(v.dtype)


def _kernel(x: Tensor, k: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides moved by the mean of k, and their scores; without k, of the tokens with themselves."""
    if k is None:
        x = x - x.mean(1, keepdim=True)
        return x, x, _scores(x, x, same=True)
    x, k = _centred(x, k)
    return x, k, _scores(x, k)


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor | None) -> Tensor:
        ctx.same = k is None
        x, k, scores = _kernel(x, k)
        ctx.save_for_backward(x, k, scores)
        return scores

    @staticmethod
    @once
    def backward(ctx: Any, dscores: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, k, scores = ctx.saved_tensors
        w = scores * dscores  # [G, N, M]
        if ctx.same:
            w = w + w.mT  # a token is on both sides
        dx = torch.bmm(w, k) - w.sum(2, keepdim=True) * x if ctx.needs_input_grad[0] else None
        dk = torch.bmm(w.mT, x) - w.sum(1).unsqueeze(2) * k if ctx.needs_input_grad[1] else None
        return dx, dk


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        x, k = _centred(x, k)
        ctx.save_for_backward(x, k, v)
        return _attend(x, k, v)

    @staticmethod
    @once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, k, v = ctx.saved_tensors
        dx, dk, dv = (torch.zeros_like(t) if needed else None
                      for t, needed in zip((x, k, v), ctx.needs_input_grad, strict=True))
        for g, n, m in _tiles(x, k):
            xt, kt, dyt = x[g, n], k[g, m], dy[g, n]
            scores = _scores(xt, kt)  # [g, n, m]
            if dv is not None:
                dv[g, m].add_(torch.bmm(scores.mT, dyt))
            if any(ctx.needs_input_grad[:2]):
                w = torch.bmm(dyt, v[g, m].mT).mul_(scores)  # [g, n, m]
            if dx is not None:
                dx[g, n].add_(torch.bmm(w, kt)).addcmul_(w.sum(2, keepdim=True), xt, value=-1)
            if dk is not None:
                dk[g, m].add_(torch.bmm(w.mT, xt)).addcmul_(w.sum(1).unsqueeze(2), kt, value=-1)
        return dx, dk, dv


def _attend(x: Tensor, k: Tensor, v: Tensor) -> Tensor:
    y = v.new_zeros(x.shape[0], x.shape[1], v.shape[2])
    for g, n, m in _tiles(x, k):
        y[g, n].add_(torch.bmm(_scores(x[g, n], k[g, m]), v[g, m]))
    return y


def _scores(x: Tensor, k: Tensor, same: bool = False) -> Tensor:
    """exp of half the negative squared distances, clamped at 0 because rounding may make a distance negative."""
    if same:
        exponent = torch.bmm(x, x.mT)
        half_square = exponent.diagonal(dim1=1, dim2=2) / 2  # [G, N]
        exponent.sub_(half_square.unsqueeze(2)).sub_(half_square.unsqueeze(1))
    else:
        exponent = torch.baddbmm(-_half_square(x).unsqueeze(2), x, k.mT)
        exponent.sub_(_half_square(k).unsqueeze(1))
    return exponent.clamp_(max=0).exp_()


def _half_square(x: Tensor) -> Tensor:
    return x.square().sum(-1) / 2


def _centred(x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    centre = k.mean(1, keepdim=True)
    return x - centre, k - centre


def _tiles(x: Tensor, k: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Slices of groups, tokens and keys whose product stays within TILE scores; one for all on the meta device."""
    (groups, tokens, _), keys = x.shape, k.shape[1]
    if not groups * tokens * keys:
        return
    if x.is_meta:
        yield slice(groups), slice(tokens), slice(keys)
        return
    tile, side = (TILE, _SIDE) if x.device.type == "cpu" else (_TILE_ON_GPU, _SIDE_ON_GPU)
    width = min(keys, side)
    height = min(tokens, tile // width)
    depth = min(groups, tile // (width * height))
    for g in range(0, groups, depth):
        for n in range(0, tokens, height):
            for m in range(0, keys, width):
                yield slice(g, g + depth), slice(n, n + height), slice(m, m + width)


def _flat(x: Tensor) -> Tensor:
    """[B, H, N, D] -> [G, N, D] in the dtype of the arithmetic."""
    return widened(x).flatten(0, 1)
