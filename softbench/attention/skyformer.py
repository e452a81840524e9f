"""Skyformer: Gaussian attention through m landmarks among queries and keys, S = k(q, l) (A + ridge I)^-1 k(l, k).

    k(a, b) = exp(-|a - b|^2 / (2 sqrt(D))), A = k(l, l),  l = half tokens of q, half tokens of k

Nystrom's method is for symmetric positive matrices: it is applied to the 2 N x 2 N kernel of queries and keys together,
whose upper right block k(q, k) is Gaussian attention, not normalised, as in `gaussian`. With all tokens as landmarks
and ridge 0 it is exactly that. Work 8 N m D operations and the inverse, linear in N; scores are tiled, not kept.

Landmarks are drawn once from `seed`, without repetition, the same for all samples and heads (`random`), or evenly
spaced (`strided`); the official code draws anew in every call, with repetition, so that its result is random. m = 128
and the ridge of 0.1 are that code's; it multiplies tokens by 32^(-1/4) whatever D is, where here they are multiplied by
D^(-1/4), as in the paper: the same for D = 32 alone. A + ridge I is scaled to D^(-1/2) (A + ridge I) D^(-1/2) by its
row sums before it is inverted, and D^(-1/2) applied again after, as in the paper. The inverse is `cholesky` by default,
which is right for any tokens; `nystromformer` with 6 steps is the paper's iteration, which stops short of the inverse
where landmarks are alike (its start value is each matrix's own here, not one for the batch). Everything is float32 for
half inputs.

Source: Chen et al., Skyformer: Remodel Self-Attention with Gaussian Kernel and Nystrom Method, NeurIPS 2021
(arXiv 2111.00035), and its official code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from softbench.attention import _landmarks
from softbench.attention._landmarks import Landmarks
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.ops import pseudo_inverse
from softbench.ops.gaussian_attention import gaussian_attention, gaussian_kernel, supports
from softbench.options import option

__all__ = ["APPROXIMATES", "COMPLEXITY", "FAMILY", "IMPLS", "LINEAR_IN_V", "SHARES_QK", "Options", "build", "cost",
           "note", "rank", "supports"]

FAMILY = "landmark"
COMPLEXITY = "N"
APPROXIMATES = "gaussian"
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("triton", "eager", "reference")


@dataclass(frozen=True)
class Options:
    landmarks: int = option(128, "landmarks m, half of them queries and half keys", low=2, high=4096, size=True)
    sampling: Literal["random", "strided"] = option("random", "how tokens are picked as landmarks")
    inverse: Literal["cholesky", "nystromformer", "eigh"] = option("cholesky", "how the m x m kernel is inverted")
    iterations: int = option(6, "steps of nystromformer", low=1, high=1000)
    ridge: float = option(0.1, "added to the diagonal before inverting", low=0, high=1)
    seed: int = option(0, "seed of random landmarks", low=0)


class Skyformer(nn.Module):
    def __init__(self, shape: Shape, options: Options, impl: str) -> None:
        super().__init__()
        self.options, self.impl = options, impl
        from_q, from_k = _halves(options)
        self.of_q = Landmarks(options.sampling, from_q, shape.grid, shape.head_dim, options.seed)
        self.of_k = Landmarks(options.sampling, from_k, shape.grid, shape.head_dim, options.seed + 1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, scale = accumulation_dtype(q.dtype), float(q.shape[-1]) ** -0.25
        landmarks = torch.cat([self.of_q(q, grid), self.of_k(k, grid)], 2).to(acc)  # [B, H, m, D]
        gathered = gaussian_attention(landmarks, k, v.to(acc), scale=scale, impl=self.impl)  # [B, H, m, E]
        middle = self._inverted(gaussian_kernel(landmarks * scale, impl=self.impl))  # [B, H, m, m]
        return gaussian_attention(q, landmarks, middle @ gathered, scale=scale, impl=self.impl).to(v.dtype)

    def _inverted(self, a: Tensor) -> Tensor:
        """(A + ridge I)^-1 by way of its symmetric normalisation."""
        o, impl = self.options, "auto" if self.impl == "triton" else self.impl
        a = a + torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) * o.ridge
        root = a.sum(-1).rsqrt()  # D^(-1/2) [B, H, m]
        scaled = root.unsqueeze(-1) * a * root.unsqueeze(-2)
        inverse = pseudo_inverse.pseudo_inverse(scaled, method=o.inverse, iterations=o.iterations, impl=impl)
        return root.unsqueeze(-1) * inverse * root.unsqueeze(-2)


def _halves(options: Options) -> tuple[int, int]:
    """How many landmarks are queries, and how many keys."""
    return -(-options.landmarks // 2), options.landmarks // 2


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Skyformer(shape, options, impl)


def cost(shape: Shape, options: Options) -> Cost:
    """A 2 m^2 D, both passes over the tokens 4 N m D each, M (P v) 2 m^2 D, the inverse."""
    groups, n, d, m = shape.batch * shape.heads, shape.tokens, shape.head_dim, rank(shape, options)
    flops = 4.0 * m**2 * d + 8.0 * n * m * d + pseudo_inverse.flops(m, method=options.inverse,
                                                                    iterations=options.iterations)
    return Cost(flops=groups * flops, elements=groups * (4.0 * n * d + 3 * m**2))


def rank(shape: Shape, options: Options) -> int:
    """The number of landmarks that there will be, which bounds the rank of S."""
    return sum(_landmarks.landmark_count(shape.grid, options.sampling, count) for count in _halves(options))


def note(shape: Shape, options: Options) -> str:
    used = rank(shape, options)
    return "" if used == options.landmarks else f"{used} of {options.landmarks} landmarks: there are no more tokens"
