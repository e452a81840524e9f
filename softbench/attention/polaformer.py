"""PolaFormer: linear attention that keeps the signs of q and k apart, and sharpens them by learnt powers.

    f(x) = [max(x, 0)^p, max(-x, 0)^p],   g(x) = [max(-x, 0)^p, max(x, 0)^p],   p_c = 1 + alpha sigmoid(power_c)
    y = [A v_1, B v_2] + conv(v),   A = norm(f(q) f(k)^T),   B = norm(g(q) f(k)^T),   v = [v_1, v_2]

The first half of the channels of v meets queries and keys of the same sign, the second those of opposite signs; norm
divides by the mean over the keys plus eps. q, k, v [B, H, N, D] need E = D (of an odd D, the first half has one more).
It defines kernels of its own, two of them. `power` [H, 1, D] is a parameter, 0 at first, so that p starts at
1 + alpha / 2. Work 8 N D E + 8 N D + 2 conv^2 N E operations a head, memory 4 N D.

Features are computed as exp(p log |x| - c), with c the largest exponent of each query, and of each head's keys over
tokens and channels together, so that they are in range at any length; c cancels in the quotient up to eps, which is
thus relative to the largest feature (the authors add theirs to sums of features as they come). The gradient goes
through c. |x| below 1e-30 counts as 0. Not part of this: the gate by which the authors' code multiplies the output,
which is made from the block's input, and positions. Nor is its learnt scale, by which it divides the channels of q and
k: while all scales and all powers are equal, as before training, that cancels up to eps; afterwards it weighs the
channels. Everything is float32 for half inputs.

Source: Meng et al., PolaFormer: Polarity-aware Linear Attention for Vision Transformers, ICLR 2025 (arXiv 2501.15061);
alpha = 4 and conv = 5 are the defaults of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softbench.attention._feature_maps import DepthwiseConv, added, check_odd, over
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.options import option

FAMILY = "feature map"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = False
CAUSAL = "never"
SAME_DIM = True
IMPLS = ("eager",)

_TINY = 1e-30


@dataclass(frozen=True)
class Options:
    alpha: float = option(4.0, "powers are between 1 and 1 + alpha", low=0, high=64)
    conv: int = option(5, "size of the depthwise convolution of v that is added (odd, 0: none)", low=0, high=99)
    eps: float = option(1e-6, "added to the normaliser, a mean over the keys", low=1e-30, high=1)

    def __post_init__(self) -> None:
        check_odd(self.conv)


class Polaformer(nn.Module):
    def __init__(self, heads: int, head_dim: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.power = nn.Parameter(torch.zeros(heads, 1, head_dim))
        self.conv = DepthwiseConv(1, head_dim, options.conv) if options.conv else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, kind = accumulation_dtype(q.dtype), v.dtype
        values, dim, share = v.to(acc), q.shape[3], 1 / q.shape[2]
        powers = 1 + self.options.alpha * self.power.to(acc).sigmoid()
        fq, fk = _features(q.to(acc), powers, (-1,)), _features(k.to(acc), powers, (-2, -1))  # [B, H, N, 2 D]
        gathered, mean = fk.mT @ values * share, fk.sum(-2).unsqueeze(-1) * share  # [B, H, 2 D, E], [B, H, 2 D, 1]
        half = -(-v.shape[3] // 2)
        same = over(fq @ gathered[..., :half], fq @ mean, self.options.eps)
        # g(q) f(k)^T is f(q) with the halves of f(k) exchanged
        opposite = over(fq @ gathered[..., half:].roll(dim, -2), fq @ mean.roll(dim, -2), self.options.eps)
        return added(torch.cat([same, opposite], -1), values, self.conv, grid).to(kind)


def _features(x: Tensor, powers: Tensor, over: tuple[int, ...]) -> Tensor:
    """Return the powers of positive and of negative entries, [B, H, N, 2 D], over the largest of them."""
    exponent = powers * x.abs().clamp_min(_TINY).log()
    signed = (exponent - exponent.amax(over, keepdim=True)).exp_() * x.detach().sign()
    return torch.cat([signed, -signed], -1).relu_()


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Polaformer(shape.heads, shape.head_dim, options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    flops = 8.0 * n * d**2 + 8.0 * n * d + 2.0 * options.conv**2 * n * d
    return Cost(flops=groups * flops, elements=groups * (6 * n * d + 2 * d**2))
