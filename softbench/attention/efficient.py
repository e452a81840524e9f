"""Efficient attention: queries and keys are normalised apart, softmax_D(q) (softmax_N(k)^T v).

    normalisation=softmax: each query by softmax over its D entries, each channel of the keys by softmax over the N keys
    normalisation=scaling: q / sqrt(N) and k / sqrt(N)

q and k [B, H, N, D]. The paper likens it to softmax attention; it defines a kernel of its own all the same, and has no
1 / sqrt(D). With softmax the rows sum to 1 with no denominator; with scaling it is q k^T v / N exactly, and rows may
sum to anything. Work 4 N D E operations a head, memory N D. Everything is float32 for half inputs.

Source: Shen et al., Efficient Attention: Attention with Linear Complexities, WACV 2021 (arXiv 1812.01243), section 3.2,
softmax and scaling normalisation. (linear-attention-transformer multiplies by 1 / sqrt(D) besides.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

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
    normalisation: Literal["softmax", "scaling"] = option("softmax", "how queries and keys are normalised")


class Efficient(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, kind = accumulation_dtype(q.dtype), v.dtype
        q, k, v = q.to(acc), k.to(acc), v.to(acc)
        if self.options.normalisation == "scaling":
            return (q @ (k.mT @ v / q.shape[2])).to(kind)
        return (q.softmax(-1) @ (k.softmax(-2).mT @ v)).to(kind)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Efficient(options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    return Cost(flops=4.0 * groups * n * d**2, elements=groups * (n * d + d**2))


def rank(shape: Shape, options: Options) -> int:
    """The rank of the attention matrix is at most that of the normalised queries."""
    return shape.head_dim
