"""LARA: linear randomized attention, softmax attention by importance sampling from m pooled proposals.

With x = q / D^(1/4) or k / D^(1/4), softmax attention of a query is a mean of f(w) = sum_j p_j(w) v_j over vectors w,
where p_j(w) is the softmax over j of w.k_j - |k_j|^2 / 2. LARA draws w from m normal distributions with the means
mu_c = qbar_c + kbar_c, the averages of queries and of keys over window c of the token grid, and weighs the draws for
each query by self-normalised multiple importance sampling. What is computed here is the deterministic form in which
the authors evaluate: each w_c is its mean mu_c,

    y_n = sum_c softmax_c(log a_nc + mu_c.q_n + log sum_j exp(mu_c.k_j - |k_j|^2 / 2) - |mu_c|^2 / 2) f(mu_c)
    a_nc = b_c + beta (t_nc - mean_c t_nc), at least 1e-8,    t_nc = softmax over n of qbar_c.q_n
    b_c = N_c(mu_c) / sum_c' N_c'(mu_c), the balance heuristic, with N_c the density of proposal c

It estimates softmax attention, with a bias: no draw is random, and where every token is a proposal it is still not
exact. Rows sum to 1. Work 2 N m (3 D + 2 E) operations, memory m N.

m = 49 and beta = 1 are the authors' defaults; beta = 0 leaves the balance heuristic alone. Their usual proposals go
through a linear layer and a norm after the pooling; these are their variant without parameters, in which an attention
trained as softmax can be evaluated. They pool to a square of 7 x 7 whatever the shape of the image; here windows are
those of a landmark grid, which has rows and columns in the proportion of the token grid, so that the two agree on
squares alone. With N <= m each token is a window. All is float32 for half inputs.

Source: Zheng, Wang and Kong, Linear Complexity Randomized Self-attention Mechanism, ICML 2022 (arXiv 2204.04667), and
the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softbench.attention._landmarks import avg_pool, landmark_count, landmark_grid, landmark_note
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.options import option

FAMILY = "landmark"
COMPLEXITY = "N"
APPROXIMATES = "softmax"
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("eager",)

_LEAST = 1e-8  # of a weight, which may come out negative


@dataclass(frozen=True)
class Options:
    proposals: int = option(49, "proposals m, at any number of tokens", low=1, high=4096, size=True)
    beta: float = option(1.0, "weight of the queries' own nearness to a proposal (0: the balance heuristic)",
                         low=0, high=100)


class LARA(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, scale = accumulation_dtype(q.dtype), q.shape[-1] ** -0.25
        to = landmark_grid(grid, self.options.proposals)
        q, k = q.to(acc) * scale, k.to(acc) * scale
        pooled_q = avg_pool(q, grid, to)  # [B, H, m, D]
        means = pooled_q + avg_pool(k, grid, to)
        from_k = means @ k.mT - _half_square(k).mT  # [B, H, m, N]
        drawn = from_k.softmax(-1) @ v.to(acc)  # f(mu) [B, H, m, E]
        own = means @ means.mT - _half_square(means).mT  # [B, H, m, m]
        proposal = own.diagonal(dim1=2, dim2=3).unsqueeze(-1)  # log N_c(mu_c), as rounded as its rivals
        balance = proposal - own.logsumexp(-1, keepdim=True)  # log b [B, H, m, 1]
        shift = from_k.logsumexp(-1, keepdim=True) - proposal  # [B, H, m, 1]
        del from_k  # no more than three of this size are held at once
        weights = (shift + self._log_alpha(q, pooled_q, balance)).mT + q @ means.mT  # [B, H, N, m]
        return (weights.softmax(-1) @ drawn).to(v.dtype)

    def _log_alpha(self, q: Tensor, pooled_q: Tensor, balance: Tensor) -> Tensor:
        """log a, [B, H, m, N]; the same for all queries, [B, H, m, 1], where beta is 0."""
        if not self.options.beta:
            return balance
        near = (pooled_q @ q.mT).softmax(-1)  # t [B, H, m, N]
        return torch.log((balance.exp() + self.options.beta * (near - near.mean(2, keepdim=True))).clamp_min(_LEAST))


def _half_square(x: Tensor) -> Tensor:
    return x.square().sum(-1, keepdim=True) / 2  # [B, H, N, 1]


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return LARA(options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d, m = shape.batch * shape.heads, shape.tokens, shape.head_dim, rank(shape, options)
    passes = 10.0 if options.beta else 8.0
    return Cost(flops=groups * (passes * n * m * d + 2.0 * m**2 * d), elements=groups * n * (3.0 * m + 2 * d))


def rank(shape: Shape, options: Options) -> int:
    """The number of proposals m that there will be, which bounds the rank of the attention matrix."""
    return landmark_count(shape.grid, "avg", options.proposals)


def note(shape: Shape, options: Options) -> str:
    return landmark_note(shape.grid, "avg", options.proposals).replace("landmark", "proposal")
