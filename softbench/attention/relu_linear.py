"""ReLU linear attention: the feature map relu in place of softmax, relu(q) (relu(k)^T v) / (relu(q) relu(k)^T 1 + eps).

q and k [B, H, N, D] are taken as they are. It defines a kernel of its own, and approximates no other attention. A query
without a positive entry, or one that meets no key, gets zeros. Work 4 N D E + 2 N D operations a head, memory N D.

This is the attention inside EfficientViT's multi-scale block; the convolutions by which that block makes further heads
from q, k and v belong to the block, and are not part of it. eps is added to the mean over the keys, where the codes add
it to the sum: 1e-15 in the authors' (too small for half precision), 1e-5 in timm's. Everything is float32 for half
inputs.

Source: Cai et al., EfficientViT: Lightweight Multi-Scale Attention for High-Resolution Dense Prediction, ICCV 2023
(arXiv 2205.14756), ReLU linear attention; eps is that of timm's LiteMLA.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    eps: float = option(1e-5, "added to the normaliser, a mean over the keys", low=1e-30, high=1)


class ReluLinear(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc = accumulation_dtype(q.dtype)
        fq, fk = q.to(acc).relu(), k.to(acc).relu()  # [B, H, N, D]
        return normalised(fq, fk, v.to(acc), self.options.eps).to(v.dtype)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return ReluLinear(options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    return Cost(flops=groups * quotient_flops(n, d, d), elements=groups * (2 * n * d + d**2))


def rank(shape: Shape, options: Options) -> int:
    """The rank of the attention matrix is at most that of the features."""
    return shape.head_dim
