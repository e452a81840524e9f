"""cosFormer: linear attention with relu features, re-weighted by the cosine of the distance between tokens.

    s_ij = relu(q_i) relu(k_j)^T cos(pi (i - j) / (2 N)),   y_i = sum_j s_ij v_j / max(sum_j s_ij, eps)

With cos(a - b) = cos a cos b + sin a sin b, the features of token i at the angle a = pi i / (2 N) are relu(q_i) cos a
and relu(q_i) sin a: 2 D of them, all at least 0. Tokens are counted along the sequence, row by row of the grid; whether
from 0 or 1 makes no difference. q and k [B, H, N, D] are taken as they are. It defines a kernel of its own. Work
8 N D E + 4 N D operations a head, memory 2 N D.

eps bounds the mean over the keys from below, where the official code bounds the sum (by the same 1e-6). A query that
meets no key gets zeros. Everything is float32 for half inputs.

Source: Qin et al., cosFormer: Rethinking Softmax in Attention, ICLR 2022 (arXiv 2202.08791), the
cosine re-weighting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softbench.attention._feature_maps import normalised, quotient_flops
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.options import option

FAMILY = "feature map"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("eager",)


@dataclass(frozen=True)
class Options:
    eps: float = option(1e-6, "least normaliser, a mean over the keys", low=1e-30, high=1)


class Cosformer(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, tokens = accumulation_dtype(q.dtype), q.shape[2]
        angles = torch.arange(tokens, dtype=acc, device=q.device) * (math.pi / 2 / tokens)
        weights = torch.stack([angles.cos(), angles.sin()], -1).unsqueeze(-1)  # [N, 2, 1]
        fq, fk = _features(q.to(acc), weights), _features(k.to(acc), weights)
        return normalised(fq, fk, v.to(acc), self.options.eps, clamp=True).to(v.dtype)


class _Weighted(torch.autograd.Function):
    """relu(x) beside itself, by cosines and by sines, [B, H, N, 2, D]; its gradient takes three passes over x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, weights)
        return (x.unsqueeze(-2) * weights).relu_()  # weights are not negative

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, weights = ctx.saved_tensors
        cosines, sines = weights.unbind(-2)  # [N, 1]
        both = (gradient[..., 0, :] * cosines).addcmul_(gradient[..., 1, :], sines)
        return torch.ops.aten.threshold_backward(both, x, 0), None


def _features(x: Tensor, weights: Tensor) -> Tensor:
    """Return the two kinds of features in a row, [B, H, N, 2 D]."""
    return _Weighted.apply(x, weights).flatten(-2)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Cosformer(options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    return Cost(flops=groups * quotient_flops(n, 2 * d, d), elements=groups * (4 * n * d + 2 * d**2))


def rank(shape: Shape, options: Options) -> int:
    """The rank of the attention matrix is at most that of the features."""
    return 2 * shape.head_dim
