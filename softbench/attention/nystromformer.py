"""Nystromformer: softmax attention through m landmarks, softmax(q l_k^T) A^+ softmax(l_q k^T) v.

Queries and keys are divided by D^(1/4), and A = softmax(l_q l_k^T). l_q and l_k are their landmarks: means of m
consecutive segments (`segment`, as in the paper; adaptive segments where m does not divide N), or 2-D average pooling
of the token grid (`avg`). A^+ comes from the paper's third-order iteration, whose start value is taken per matrix (the
common codes take one for the batch). With N <= m every token is a landmark and the formula stays as it is: it is exact
softmax only once the iteration has converged. Work 4 N m (D + E) operations plus 8 T m^3 for T steps.

`conv` adds the paper's depthwise convolution of v along the token axis, one filter a head. Everything is float32 for
half inputs; `math` writes out the N x m scores that `sdpa` may leave unwritten.

Source: Xiong et al., Nystromformer, AAAI 2021 (arXiv 2102.03902), equations 7, 11 and 13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention._feature_maps import check_odd
from softbench.attention._landmarks import avg_pool, landmark_grid, landmark_note, segment_means
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.ops import pseudo_inverse
from softbench.options import option

FAMILY = "landmark"
COMPLEXITY = "N"
APPROXIMATES = "softmax"
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("sdpa", "math")
PYRAMID = {"landmarks": 49, "pooling": "avg"}  # 2-D pooling, as in Table 2 of the paper of SOFT


@dataclass(frozen=True)
class Options:
    landmarks: int = option(64, "landmarks m, at any number of tokens", low=1, high=4096, size=True)
    pooling: Literal["segment", "avg"] = option("segment", "means of token segments, or of windows of the token grid")
    iterations: int = option(6, "steps of the pseudo-inverse", low=1, high=1000)
    conv: int = option(0, "length of the depthwise convolution of v that is added (odd, 0: none)", low=0, high=255)

    def __post_init__(self) -> None:
        check_odd(self.conv)


class Nystromformer(nn.Module):
    def __init__(self, heads: int, options: Options, impl: str) -> None:
        super().__init__()
        self.options, self.impl = options, impl
        size = (options.conv, 1)
        self.conv = (nn.Conv2d(heads, heads, size, padding=(options.conv // 2, 0), groups=heads, bias=False)
                     if options.conv else None)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, scale = accumulation_dtype(q.dtype), q.shape[-1] ** -0.25
        queries, keys, values = q.to(acc) * scale, k.to(acc) * scale, v.to(acc)
        lq, lk = self._landmarks(queries, grid), self._landmarks(keys, grid)  # [B, H, m, D]
        inverse = pseudo_inverse.pseudo_inverse((lq @ lk.mT).softmax(-1), method="nystromformer",
                                                iterations=self.options.iterations)  # [B, H, m, m]
        gathered = inverse @ self._attend(lq, keys, values)  # [B, H, m, E]
        y = self._attend(queries, lk, gathered)  # [B, H, N, E]
        if self.conv is not None:
            y = y + F.conv2d(values, self.conv.weight.to(acc), padding=self.conv.padding, groups=self.conv.groups)
        return y.to(v.dtype)

    def _landmarks(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        count = self.options.landmarks
        if self.options.pooling == "segment":
            return segment_means(x, count)
        return avg_pool(x, grid, landmark_grid(grid, count))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.impl == "sdpa":
            return F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return (q @ k.mT).softmax(-1) @ v


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Nystromformer(shape.heads, options, impl)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d, m = shape.batch * shape.heads, shape.tokens, shape.head_dim, rank(shape, options)
    flops = (2.0 * m**2 * d + 8.0 * n * m * d + 2.0 * m**2 * d + 2.0 * options.conv * n * d
             + pseudo_inverse.flops(m, method="nystromformer", iterations=options.iterations))
    return Cost(flops=groups * flops, elements=groups * (2 * n * d + 4 * m**2))


def parts(shape: Shape, options: Options) -> dict[str, float]:
    """FLOP of the pseudo-inverse, for all heads."""
    inverse = pseudo_inverse.flops(rank(shape, options), method="nystromformer", iterations=options.iterations)
    return {"inverse": shape.batch * shape.heads * inverse}


def rank(shape: Shape, options: Options) -> int:
    """The number of landmarks m that there will be, which bounds the rank of the attention matrix."""
    rows, cols = landmark_grid(_pooled_grid(shape, options), options.landmarks)
    return rows * cols


def note(shape: Shape, options: Options) -> str:
    return landmark_note(_pooled_grid(shape, options), "avg", options.landmarks)


def _pooled_grid(shape: Shape, options: Options) -> tuple[int, int]:
    return (1, shape.tokens) if options.pooling == "segment" else shape.grid
