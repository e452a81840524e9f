"""Spatial-reduction attention (PVT): softmax attention to keys and values that a strided convolution shortens.

    y = softmax(q k'^T / sqrt(D)) v',    k' = LN(conv(k)),    v' = LN(conv(v))

The convolution takes windows of R x R tokens of the grid over the H D channels of all heads, and keys and values share
it and its layer norm (`_reduction`): v must have the D channels of k. R = 8 as in the paper's first stage; its later
stages have 4, 2 and 1, where R = 1 is exact softmax attention without convolution or norm. PVT leaves out a border that
no window fills; here it is filled with its last row or column, so that every token is seen and any grid will do. It
defines its own kernel. Work 4 N^2 D / R^2 a head for the attention, and 4 N (H D)^2 for the convolution of a sample,
which outweighs that of all heads up to N = H D R^2.

The convolution and its norm are float32 for half inputs; attention then runs in the inputs' dtype (`sdpa`), or in
float32 with the N x M scores written out (`math`).

Source: Wang et al., Pyramid Vision Transformer, ICCV 2021 (arXiv 2102.12122), spatial-reduction attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from softbench.attention._reduction import Reduction, reduced_grid, reduction_flops
from softbench.attention._softmax import softmax_attention
from softbench.case import Shape
from softbench.contracts.attention import Cost
from softbench.options import option

FAMILY = "reduction"
COMPLEXITY = "N^2"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = False
CAUSAL = "never"
SAME_DIM = True
IMPLS = ("sdpa", "math")
PYRAMID = {"reduction": (8, 4, 2)}  # as PVT


@dataclass(frozen=True)
class Options:
    reduction: int = option(8, "side R of the windows of tokens that one key stands for (1: exact softmax attention)",
                            low=1, high=64)


class SpatialReduction(nn.Module):
    def __init__(self, shape: Shape, options: Options, impl: str) -> None:
        super().__init__()
        self.impl = impl
        dim = shape.heads * shape.head_dim
        self.reduce = Reduction(dim, options.reduction) if options.reduction > 1 else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        keys, values = (k, v) if self.reduce is None else self.reduce(k, v, grid)  # [B, H, M, D]
        return softmax_attention(q, keys, values, self.impl, dtype=v.dtype)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return SpatialReduction(shape, options, impl)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    window = options.reduction
    m = math.prod(reduced_grid(shape.grid, window))
    if window == 1:
        return Cost(flops=4.0 * groups * n**2 * d, elements=groups * n)
    return Cost(flops=4.0 * groups * n * m * d + shape.batch * reduction_flops(shape.grid, window, shape.heads * d),
                elements=2.0 * groups * m * d * (window**2 + 1))  # windows of k and v, and what they become


def note(shape: Shape, options: Options) -> str:
    return "exact softmax: nothing is reduced" if options.reduction == 1 else ""
