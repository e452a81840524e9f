"""Gaussian attention in plain torch: tiled, so that the scores of all tokens are never held at once.

With W_ij = exp(-|x_i - k_j|^2 / 2) (dy_i . v_j), the gradients are
    dv_j = sum_i exp(-|x_i - k_j|^2 / 2) dy_i,    dx_i = sum_j W_ij (k_j - x_i),    dk_j = sum_i W_ij (x_i - k_j),
and the backward recomputes each tile of scores instead of storing it.

Distances come from one matrix product, and keep their digits for tokens of any length (`_distances`).

Batch and heads are flattened here: x [G, N, D], k [G, M, D], v [G, M, E] with G = B * H groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from softbench.ops._common import is_traced, needs_grad, once, widened
from softbench.ops.gaussian_attention._by_landmarks import by_landmarks as by_landmarks
from softbench.ops.gaussian_attention._distances import Pairs, Run, by_reach, exponents, own_pairs, pairs

TILE = 1 << 19  # scores held at once: 2 MiB in float32, which stay in the cache between the steps
_SIDE = 512  # keys in a tile
_TILE_ON_GPU, _SIDE_ON_GPU = 1 << 26, 2048  # 256 MiB: a GPU needs more work in one launch


def kernel(x: Tensor, k: Tensor) -> Tensor:
    """Return the scores themselves; x [B, H, N, D], k [B, H, M, D] -> [B, H, N, M], float32 for half inputs.

    Where k is x, the scores of a token with itself are 1.
    """
    scores = _kernel(_flat(x)) if k is x else _kernel(_flat(x), _flat(k))
    return scores.view(*x.shape[:2], *scores.shape[1:])


def attention(x: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The weighted sums; v [B, H, M, E] -> [B, H, N, E] in the dtype of v."""
    y = _attention(_flat(x), _flat(k), _flat(v))
    return y.view(*x.shape[:2], *y.shape[1:]).to(v.dtype)


def _kernel(x: Tensor, k: Tensor | None = None) -> Tensor:
    p, far = own_pairs(x) if k is None else pairs(x, k)
    if far is not None and x.dtype != torch.float64:
        return by_reach(_kernel, partial(_in_float64, _kernel), far, *((x,) if k is None else (x, k)))
    scores: Tensor = _Kernel.apply(x, k, _handed(p)) if needs_grad(x, x if k is None else k) else _score(p, k is None)
    return scores


def _attention(x: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p, far = pairs(x, k)
    if far is not None and k.dtype != torch.float64:
        return by_reach(_attention, partial(_in_float64, _attention), far, x, k, v)
    y: Tensor = _Attention.apply(x, k, v, _handed(p)) if needs_grad(x, k, v) else _attend(p, v)
    return y


def _in_float64(run: Run, *tensors: Tensor) -> Tensor:
    return run(*(t.double() for t in tensors)).to(tensors[-1].dtype)


def _handed(p: Pairs) -> Pairs | None:
    """p, but where a function is traced, which takes no tensors beside its arguments, None: it makes them itself."""
    return None if is_traced() else p


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor | None, p: Pairs | None) -> Tensor:
        p = p or (own_pairs(x) if k is None else pairs(x, k))[0]
        scores = _score(p, k is None)
        ctx.same = k is None
        ctx.save_for_backward(p.x, p.k, scores)
        return scores

    @staticmethod
    @once
    def backward(ctx: Any, dscores: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, k, scores = ctx.saved_tensors
        w = scores * dscores  # [G, N, M]
        if ctx.same:
            w = w + w.mT  # a token is on both sides
        dx = torch.bmm(w, k) - w.sum(2, keepdim=True) * x if ctx.needs_input_grad[0] else None
        dk = torch.bmm(w.mT, x) - w.sum(1).unsqueeze(2) * k if ctx.needs_input_grad[1] else None
        return dx, dk, None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: Tensor, v: Tensor, p: Pairs | None) -> Tensor:
        p = p or pairs(x, k)[0]
        ctx.save_for_backward(p.x, p.k, p.half_x, p.half_k, v)
        ctx.far = p.far
        return _attend(p, v)

    @staticmethod
    @once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, k, half_x, half_k, v = ctx.saved_tensors
        p = Pairs(x, k, half_x, half_k, ctx.far)
        dx, dk, dv = (torch.zeros_like(t) if needed else None
                      for t, needed in zip((x, k, v), ctx.needs_input_grad, strict=False))
        for g, n, m in _tiles(x, k):
            tile, dyt = p.tile(g, n, m), dy[g, n]
            scores = _exp(exponents(tile))  # [g, n, m]
            if dv is not None:
                dv[g, m].add_(torch.bmm(scores.mT, dyt))
            if any(ctx.needs_input_grad[:2]):
                w = torch.bmm(dyt, v[g, m].mT).mul_(scores)  # [g, n, m]
            if dx is not None:
                dx[g, n].add_(torch.bmm(w, tile.k)).addcmul_(w.sum(2, keepdim=True), tile.x, value=-1)
            if dk is not None:
                dk[g, m].add_(torch.bmm(w.mT, tile.x)).addcmul_(w.sum(1).unsqueeze(2), tile.k, value=-1)
        return dx, dk, dv, None


def _score(p: Pairs, same: bool) -> Tensor:
    exponent = exponents(p)
    if same and p.product is None:
        exponent.masked_fill_(torch.eye(p.k.shape[1], dtype=torch.bool, device=p.k.device), 0)
    return _exp(exponent)


def _attend(p: Pairs, v: Tensor) -> Tensor:
    y = v.new_zeros(p.x.shape[0], p.x.shape[1], v.shape[2])
    for g, n, m in _tiles(p.x, p.k):
        y[g, n].add_(torch.bmm(_exp(exponents(p.tile(g, n, m))), v[g, m]))
    return y


def _exp(exponent: Tensor) -> Tensor:
    """Scores, clamped at 1 because rounding may make a distance negative; the exponents are used up."""
    return exponent.clamp_(max=0).exp_()


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
