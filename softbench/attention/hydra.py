"""Hydra attention: as many heads as channels, q / |q| * sum_j (k_j / |k_j| * v_j), products entry by entry.

    y_ic = q_ic / |q_i| * sum_j k_jc v_jc / |k_j|

With one channel a head, the cosine kernel's matrix has rank one, and each channel of v meets a matrix of its own, so
that the attention has no single matrix S(q, k). The heads given are joined: the length |q_i| is taken over all H D
channels of a token, as in the paper's code. q, k, v [B, H, N, D] need E = D. Rows do not sum to 1, and outputs grow
with N. It defines a kernel of its own. Work 2 N D operations a head (those of the sum; entrywise products are not
counted), memory N D.

Lengths below 1e-12 count as 1e-12, so that tokens of zeros give zeros (the paper divides by zero there). Sums are
float32 for half inputs.

Source: Bolya et al., Hydra Attention: Efficient Attention with Many Heads, ECCV 2022 workshops (arXiv 2209.07484),
with the cosine similarity that it settles on.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype

FAMILY = "feature map"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = False
CAUSAL = "never"
SAME_DIM = True
IMPLS = ("eager",)

_LEAST_NORM = 1e-12


@dataclass(frozen=True)
class Options:
    """None: Hydra attention has nothing to choose."""


class Hydra(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, kind = accumulation_dtype(q.dtype), v.dtype
        q, k, v = q.to(acc), k.to(acc), v.to(acc)
        values = _norm(k).reciprocal().mT @ (k * v)  # [B, H, 1, D]
        return (q * values / _norm(q)).to(kind)


def _norm(x: Tensor) -> Tensor:
    """Return the length of each token over all heads, [B, 1, N, 1]."""
    return x.norm(dim=(1, 3), keepdim=True).clamp_min(_LEAST_NORM)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Hydra()


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    return Cost(flops=2.0 * groups * n * d, elements=1.0 * groups * n * d)
