"""Luna: attention through p learnt slots, which pack the tokens and are unpacked to each of them.

    A = softmax(s k^T / sqrt(D)),    y = softmax(q (A k)^T / sqrt(D)) A v

The slots s [H, p, D] are parameters: the queries of the packing attention A [B, H, p, N], whose result is what the
queries of the tokens attend to. A packs keys and values alike. With one head that is the paper's attention, as the
projections of a packed token are the packed projections; with several it is not: the paper's packed tokens are made by
all heads together and projected anew to keys and values, where here each head attends to what it packed itself. The
whole is a matrix of rank p on the values; it is a function of its own and estimates no other. Work 2 N p (3 D + 2 E)
operations, memory p N.

p = 16 is the least of the paper's 16, 128 and 256. The slots start as standard normal numbers. Two things of the paper
lie outside of one attention and are left out: the packed tokens are not handed on to the next layer as its slots, and
slots are queries as they are, without a projection. Packing is float32 for half inputs; the tokens then attend in the
inputs' dtype (`sdpa`), or in float32 with the N x p scores written out (`math`).

Source: Ma et al., Luna: Linear Unified Nested Attention, NeurIPS 2021 (arXiv 2106.01540), pack and unpack attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.options import option

FAMILY = "low rank"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("sdpa", "math")


@dataclass(frozen=True)
class Options:
    slots: int = option(16, "learnt slots p, at any number of tokens", low=1, high=4096, size=True)


class Luna(nn.Module):
    def __init__(self, shape: Shape, options: Options, impl: str) -> None:
        super().__init__()
        self.impl = impl
        self.slots = nn.Parameter(torch.randn(shape.heads, options.slots, shape.head_dim))  # s

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, scale = accumulation_dtype(q.dtype), q.shape[-1] ** -0.5
        keys = k.to(acc)
        pack = ((self.slots.to(acc) * scale) @ keys.mT).softmax(-1)  # A [B, H, p, N]
        packed_k, packed_v = pack @ keys, pack @ v.to(acc)  # [B, H, p, D], [B, H, p, E]
        if self.impl == "sdpa":
            return F.scaled_dot_product_attention(q, packed_k.to(q.dtype), packed_v.to(v.dtype))
        return ((q.to(acc) @ (packed_k * scale).mT).softmax(-1) @ packed_v).to(v.dtype)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Luna(shape, options, impl)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d, p = shape.batch * shape.heads, shape.tokens, shape.head_dim, options.slots
    return Cost(flops=10.0 * groups * n * p * d, elements=groups * (2.0 * n * p + 2 * p * d))


def rank(shape: Shape, options: Options) -> int:
    """The number of slots p, which bounds the rank of the attention matrix."""
    return min(options.slots, shape.tokens)
