"""Exact softmax attention, softmax(q k^T / sqrt(D)) v: the baseline.

Work 2 N^2 (D + E) multiply-adds a head. `sdpa` is torch's fused call, which never writes the N x N scores where the
device has a kernel for it; `math` writes them and accumulates in float32. On some CPUs torch's fused backward gives NaN
where scores are huge, as those of q and k times 1e4; training is then measured as `failed`, the gradient not being
finite, and `math` is right.

Causal, token i sees the first i. `sdpa` then leaves out most of what is masked, but operations are counted as the two
products of all pairs, as torch and fvcore count them.

Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017, equation 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from softbench.attention._softmax import softmax_attention
from softbench.case import Shape
from softbench.contracts.attention import Cost

FAMILY = "exact"
COMPLEXITY = "N^2"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "either"
IMPLS = ("sdpa", "math")


@dataclass(frozen=True)
class Options:
    """None: exact attention has nothing to choose."""


class Softmax(nn.Module):
    def __init__(self, impl: str, causal: bool) -> None:
        super().__init__()
        self.impl, self.causal = impl, causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        return softmax_attention(q, k, v, self.impl, causal=self.causal)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Softmax(impl, shape.causal)


def cost(shape: Shape, options: Options) -> Cost:
    groups = shape.batch * shape.heads
    return Cost(flops=4.0 * groups * shape.tokens**2 * shape.head_dim,
                elements=groups * shape.tokens)  # the log-sum-exp of each row


def avoidable(shape: Shape, options: Options) -> float:
    """Of N^2 pairs, those with a key after the query, where these are masked."""
    masked = shape.tokens * (shape.tokens - 1) / 2 if shape.causal else 0.0
    return 4.0 * shape.batch * shape.heads * masked * shape.head_dim
