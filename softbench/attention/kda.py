"""KDA: Kimi delta attention, the delta rule on a state that fades by a gate of each token and channel.

    S' = diag(e^g_t) S_(t-1),   S_t = S' + beta_t k_t (v_t - S'^T k_t)^T,   o_t = S_t^T q_t / sqrt(D)

q, k [B, H, N, D]; v [B, H, N, E]; the state S [B, H, D, E] has D E numbers a head at any N. g [B, H, N, D] is a natural
logarithm of at most 0; it decays the state before that is read for the difference. beta [B, H, N] from 0 to 1 is how
much of the old value is replaced. With keys longer than sqrt(2 / beta) the state grows without bound; models give keys
of length 1, workloads do too, and `normalise` makes them so.

`recurrent` goes token by token; `chunk` takes up to C = 64 tokens at a time as matrix products (`_recurrence`). Work N
C (3 D + 3 E) + 6 N D E operations a head, memory N (D + E). In a chunk, what is written is the solution of a triangular
system.

Source: Kimi Team, Kimi Linear: An Expressive, Efficient Attention Architecture, 2025 (arXiv 2510.26692).
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
INPUTS = {"g": ("channel", None, 0.0), "beta": ("head", 0.0, 1.0)}
IMPLS = ("chunk", "recurrent")
UNIT_KEYS = True


@dataclass(frozen=True)
class Options:
    normalise: bool = option(False, "divide q and k by their lengths, as the models do; else they are taken as given")


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return _recurrence.Recurrence(impl, normalise=options.normalise)


def cost(shape: Shape, options: Options) -> Cost:
    return _recurrence.cost(shape, per="channel", delta=True)
