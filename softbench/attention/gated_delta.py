"""Gated-delta: the delta rule on a state that fades by one gate of each token and head (Gated DeltaNet).

    S' = e^g_t S_(t-1),   S_t = S' + beta_t k_t (v_t - S'^T k_t)^T,   o_t = S_t^T q_t / sqrt(D)

q, k [B, H, N, D]; v [B, H, N, E]; the state S [B, H, D, E] has D E numbers a head at any N. g [B, H, N] is a natural
logarithm of at most 0; it decays the state before that is read for the difference. beta [B, H, N] from 0 to 1 is how
much of the old value is replaced. With keys longer than sqrt(2 / beta) the state grows without bound; models give keys
of length 1, workloads do too, and `normalise` makes them so.

`recurrent` goes token by token; `chunk` takes up to C = 64 tokens at a time as matrix products (`_recurrence`). Work N
C (5 D + 3 E) + 6 N D E operations a head, memory N (D + E). In a chunk, what is written is the solution of a triangular
system.

Source: Yang et al., Gated Delta Networks: Improving Mamba2 with Delta Rule, ICLR 2025 (arXiv 2412.06464), equation 10.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from softbench.attention import _recurrence
from softbench.case import Shape
from softbench.contracts.attention import Cost
from softbench.options import option

FAMILY = "recurrent"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "always"
INPUTS = {"g": ("head", None, 0.0), "beta": ("head", 0.0, 1.0)}
IMPLS = ("chunk", "recurrent")
UNIT_KEYS = True


@dataclass(frozen=True)
class Options:
    normalise: bool = option(False, "divide q and k by their lengths, as the models do; else they are taken as given")


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return _recurrence.Recurrence(impl, normalise=options.normalise)


def cost(shape: Shape, options: Options) -> Cost:
    return _recurrence.cost(shape, per="head", delta=True)
