"""Exact Gaussian attention without softmax, exp(-|q - k|^2 / (2 sqrt(D))) v: what SOFT approximates.

No row is normalised. Work 2 N^2 (D + E) multiply-adds a head; the N x N scores are tiled, so memory stays linear in N.
Queries and keys are independent here; SOFT ties them. Tokens far from all keys give rows of zeros, rightly.

Source: Lu et al., SOFT, NeurIPS 2021 (arXiv 2110.11945), equations 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from softbench.case import Shape
from softbench.contracts.attention import Cost
from softbench.ops import dispatch
from softbench.ops.gaussian_attention import eager, gaussian_attention, supports

__all__ = ["APPROXIMATES", "COMPLEXITY", "FAMILY", "IMPLS", "LINEAR_IN_V", "SHARES_QK", "Options", "build", "cost",
           "supports"]

FAMILY = "exact"
COMPLEXITY = "N^2"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("triton", "eager", "reference")


@dataclass(frozen=True)
class Options:
    """None: the bandwidth is set by D."""


class Gaussian(nn.Module):
    def __init__(self, impl: str) -> None:
        super().__init__()
        self.impl = impl
        dispatch.register(impl)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        return gaussian_attention(q, k, v, scale=q.shape[-1] ** -0.25, impl=self.impl)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Gaussian(impl)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    tile = min(eager.TILE, groups * n**2)
    return Cost(flops=4.0 * groups * n**2 * d,
                elements=4.0 * groups * n * d + tile)  # q and k scaled, then centred
