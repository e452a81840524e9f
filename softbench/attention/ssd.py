"""SSD: the state space duality of Mamba-2, a state that fades by one gate of each token and head.

    S_t = e^g_t S_(t-1) + k_t v_t^T,   o_t = S_t^T q_t

q, k [B, H, N, D]; v [B, H, N, E]; the state S [B, H, D, E] has D E numbers a head at any N. g [B, H, N] is a natural
logarithm of at most 0. In Mamba-2's words g = A dt, k = B, q = C and v = x dt; there is no 1 / sqrt(D). Its skip D x,
convolution and gate belong to a model.

`recurrent` goes token by token; `chunk` takes up to C = 64 tokens at a time as matrix products (`_recurrence`). Work 2
N C (D + E) + 4 N D E operations a head, memory N (D + E).

Source: Dao and Gu, Transformers are SSMs, ICML 2024 (arXiv 2405.21060).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from softbench.attention import _recurrence
from softbench.case import Shape
from softbench.contracts.attention import Cost

FAMILY = "recurrent"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "always"
INPUTS = {"g": ("head", None, 0.0)}
IMPLS = ("chunk", "recurrent")


@dataclass(frozen=True)
class Options:
    """None: gates are inputs."""


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return _recurrence.Recurrence(impl, scaled=False)


def cost(shape: Shape, options: Options) -> Cost:
    return _recurrence.cost(shape, per="head")
