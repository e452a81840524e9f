"""Linformer: softmax attention to projected keys and values, softmax(q (E^T k)^T / sqrt(D)) F^T v.

E and F [N, r] are two parameters shared by all heads; the paper's k, the projected length, is called r here. They fit
one N, and a call with another raises. r stays as asked even for N < r, where the projection saves nothing. Work
4 N r (D + E) operations over both steps. E and F start as the random projections of the paper's Theorem 1,
independent normal numbers of variance 1 / r. They are applied in float32; attention then runs in the inputs' dtype
(`sdpa`), or in float32 with the N x r scores written out (`math`).

Source: Wang et al., Linformer, 2020 (arXiv 2006.04768), equation 7.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softbench.attention._softmax import softmax_attention
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.errors import UsageError
from softbench.options import option

FAMILY = "low rank"
COMPLEXITY = "N"
APPROXIMATES = "softmax"
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("sdpa", "math")
PYRAMID = {"projected": 49}  # as many as SOFT has landmarks


@dataclass(frozen=True)
class Options:
    projected: int = option(256, "length r to which keys and values are projected", low=1, high=65536, size=True)


class Linformer(nn.Module):
    def __init__(self, tokens: int, projected: int, impl: str) -> None:
        super().__init__()
        self.impl = impl
        self.project_k = nn.Parameter(torch.randn(tokens, projected) * projected**-0.5)  # E
        self.project_v = nn.Parameter(torch.randn(tokens, projected) * projected**-0.5)  # F

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        if k.shape[2] != len(self.project_k):
            raise UsageError(f"This linformer was built for {len(self.project_k)} tokens, not {k.shape[2]}: its "
                             "projections fit one length. Build another.")
        acc = accumulation_dtype(q.dtype)
        keys = self.project_k.to(acc).mT @ k.to(acc)  # [B, H, r, D]
        values = self.project_v.to(acc).mT @ v.to(acc)  # [B, H, r, E]
        return softmax_attention(q, keys, values, self.impl, dtype=v.dtype)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Linformer(shape.tokens, options.projected, impl)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d, r = shape.batch * shape.heads, shape.tokens, shape.head_dim, options.projected
    return Cost(flops=8.0 * groups * n * r * d, elements=2.0 * n * r + groups * (2 * r * d + n))


def rank(shape: Shape, options: Options) -> int:
    """The projected length r, which bounds the rank of the attention matrix."""
    return min(options.projected, shape.tokens)
