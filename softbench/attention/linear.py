"""Linear attention: the feature map elu(x) + 1 in place of softmax, f(q) (f(k)^T v) / (f(q) f(k)^T 1).

    y_i = f(q_i) M / (f(q_i) m + eps),   M = mean_j f(k_j)^T v_j,   m = mean_j f(k_j)^T,   f(x) = elu(x) + 1

q and k [B, H, N, D] are taken as they are, without the 1 / sqrt(D) of softmax. It defines a kernel of its own, and
approximates no other attention. Work 4 N D E + 2 N D operations a head, memory N D.

M and m are means where the paper has sums: the quotient is the same, sums stay in range at any N, and eps (1e-6, which
the authors' code adds to the sum) means the same at any N. Everything is float32 for half inputs: codes that sum in
half precision return zeros once q m exceeds 65,504.

Causal, sums and means are over the first i tokens for token i, from a state [D, E + 1] of sums and the number of
tokens, as in the paper's section 3.3 (`_recurrence`).

Source: Katharopoulos et al., Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention, ICML 2020
(arXiv 2006.16236), section 3.2 and equation 7 for the feature map; the default of eps is the authors' code's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softbench.attention import _recurrence
from softbench.attention._feature_maps import elu_plus_one, normalised, quotient_flops
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.errors import UsageError
from softbench.options import option

FAMILY = "feature map"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "either"
IMPLS = ("eager",)


@dataclass(frozen=True)
class Options:
    eps: float = option(1e-6, "added to the normaliser, a mean over the keys", low=0, high=1)


class Linear(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc = accumulation_dtype(q.dtype)
        fq, fk = elu_plus_one(q.to(acc)), elu_plus_one(k.to(acc))  # [B, H, N, D]
        return normalised(fq, fk, v.to(acc), self.options.eps).to(v.dtype)


class CausalLinear(nn.Module):
    """The same over the tokens up to each; its state is the sums [B, H, D, E + 1] and the number of tokens."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        sums = torch.zeros(*q.shape[:2], q.shape[3], v.shape[3] + 1)
        return self._run(q, k, v, (sums, 0), keep=False)[0]

    def state(self, shape: Shape, value_dim: int = 0) -> tuple[Tensor, int]:
        """The state before the first token."""
        return torch.zeros(shape.batch, shape.heads, shape.head_dim, (value_dim or shape.head_dim) + 1), 0

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: tuple[Tensor, int]) -> tuple[Tensor, tuple[Tensor, int]]:
        """The output of some tokens more, and the state after them.

        Raises:
            UsageError: a state of another shape.
        """
        if not (isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], int)):
            raise UsageError("The state must be that of state(shape) or of a step: sums and a number of tokens.")
        _recurrence.check_state(state[0], (*q.shape[:2], q.shape[3], v.shape[3] + 1), "sums [B, H, D, E + 1]")
        return self._run(q, k, v, state, keep=True)

    def _run(self, q: Tensor, k: Tensor, v: Tensor, state: tuple[Tensor, int],
             keep: bool) -> tuple[Tensor, tuple[Tensor, int]]:
        acc = accumulation_dtype(q.dtype)
        fq, fk = elu_plus_one(q.to(acc)), elu_plus_one(k.to(acc))  # [B, H, N, D]
        y, sums = _recurrence.with_norm(fq, fk, v.to(acc), state[0].to(fq), keep=keep)
        tokens = state[1] + torch.arange(1, q.shape[2] + 1, dtype=acc, device=q.device)[:, None]
        y = y[..., :-1] / (y[..., -1:] + self.options.eps * tokens)
        return y.to(v.dtype), (sums, state[1] + q.shape[2])


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return CausalLinear(options) if shape.causal else Linear(options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    if shape.causal:
        return _recurrence.cost(shape, values=d + 1)
    return Cost(flops=groups * quotient_flops(n, d, d), elements=groups * (2 * n * d + d**2))


def rank(shape: Shape, options: Options) -> int:
    """The rank of the attention matrix is at most that of the features; a triangle has that of its tokens."""
    return shape.tokens if shape.causal else shape.head_dim
