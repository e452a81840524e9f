"""XCA: cross-covariance attention over channels, y = v softmax(t q'^T k')^T with unit columns q' and k'.

q'_c = q_c / |q_c| is a channel c of a head over all tokens, t a temperature for each head, so that the D x D matrix
softmax over d of t q'_c . k'_d mixes channels: y_nc = sum_d A_cd v_nd. No token sees another one but through A, and v
must have the D channels of q and k. It defines its own map. Work 4 N D^2 operations, memory D^2 beyond the output.

t is a parameter that starts at 1, as in the authors' code (the paper divides by a temperature). The columns are never
normalised themselves: A comes from q^T k and the lengths, each at least 1e-12. Products, lengths and A are float32 for
half inputs.

Source: El-Nouby et al., XCiT: Cross-Covariance Image Transformers, NeurIPS 2021 (arXiv 2106.09681), section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype

FAMILY = "channel"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = False
CAUSAL = "never"
SAME_DIM = True
IMPLS = ("eager",)

_SHORTEST = 1e-12  # length of a channel of zeros


@dataclass(frozen=True)
class Options:
    """None: the temperature is learnt."""


class XCA(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc = accumulation_dtype(q.dtype)
        q, k = q.to(acc), k.to(acc)
        rows = self.temperature.to(acc) / _lengths(q).mT  # [B, H, D, 1]
        scores = (q.mT @ k) * rows / _lengths(k)  # [B, H, D, D]
        return (v.to(acc) @ scores.softmax(-1).mT).to(v.dtype)


def _lengths(x: Tensor) -> Tensor:
    """Of each channel over the tokens, [B, H, 1, D]."""
    return torch.linalg.vector_norm(x, dim=2, keepdim=True).clamp_min(_SHORTEST)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return XCA(shape.heads)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    return Cost(flops=4.0 * groups * n * d**2, elements=3.0 * groups * d**2)
