"""Linear spatial-reduction attention (PVT v2): softmax attention to keys and values pooled to a fixed grid.

    y = softmax(q k'^T / sqrt(D)) v',    k' = GELU(LN(W pool(k) + b)),    v' = GELU(LN(W pool(v) + b))

`pool` is adaptive average pooling of the token grid to 7 x 7, the paper's size, or to fewer rows or columns where the
grid has no more; W is a 1x1 convolution over the H D channels of all heads, which keys and values share with its layer
norm (`_reduction`): v must have the D channels of k. It defines its own kernel. Work 4 N m D operations a head with
m = 49, and 4 m (H D)^2 for the convolution of a sample; memory m D.

The reduction is float32 for half inputs; attention then runs in the inputs' dtype (`sdpa`), or in float32 with the
N x m scores written out (`math`).

Source: Wang et al., PVT v2: Improved Baselines with Pyramid Vision Transformer, CVMJ 2022 (arXiv 2106.13797), linear
spatial-reduction attention.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention._landmarks import avg_pool
from softbench.attention._reduction import Grid, Reduction, reduction_flops
from softbench.attention._softmax import softmax_attention
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.options import option

FAMILY = "reduction"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = False
CAUSAL = "never"
SAME_DIM = True
IMPLS = ("sdpa", "math")


@dataclass(frozen=True)
class Options:
    pool: int = option(7, "rows and columns to which keys and values are pooled", low=1, high=64)


class LinearSRA(nn.Module):
    def __init__(self, shape: Shape, options: Options, impl: str) -> None:
        super().__init__()
        self.options, self.impl = options, impl
        self.reduce = Reduction(shape.heads * shape.head_dim, 1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, to = accumulation_dtype(q.dtype), _pooled(grid, self.options)
        keys, values = (F.gelu(t) for t in self.reduce(avg_pool(k, grid, to, acc), avg_pool(v, grid, to, acc), to))
        return softmax_attention(q, keys, values, self.impl, dtype=v.dtype)


def _pooled(grid: Grid, options: Options) -> Grid:
    return min(grid[0], options.pool), min(grid[1], options.pool)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return LinearSRA(shape, options, impl)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    rows, cols = to = _pooled(shape.grid, options)
    flops = 4.0 * groups * n * rows * cols * d + shape.batch * reduction_flops(to, 1, shape.heads * d)
    return Cost(flops=flops, elements=groups * (4.0 * rows * cols * d + n))
