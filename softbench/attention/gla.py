"""GLA: gated linear attention, whose state fades by a gate of each token and channel.

    S_t = diag(e^g_t) S_(t-1) + k_t v_t^T,   o_t = S_t^T q_t / sqrt(D)

q, k [B, H, N, D]; v [B, H, N, E]; the state S [B, H, D, E] has D E numbers a head at any N. g [B, H, N, D] is a natural
logarithm of at most 0: a model gives log sigmoid(W x) / 16.

`recurrent` goes token by token; `chunk` takes up to C = 64 tokens at a time as matrix products (`_recurrence`). Work N
C (D + 2 E) + 4 N D E operations a head, memory N (D + E).

Source: Yang et al., Gated Linear Attention Transformers with Hardware-Efficient Training, ICML 2024 (arXiv 2312.06635).
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
INPUTS = {"g": ("channel", None, 0.0)}
IMPLS = ("chunk", "recurrent")


@dataclass(frozen=True)
class Options:
    """None: gates are inputs."""


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return _recurrence.Recurrence(impl)


def cost(shape: Shape, options: Options) -> Cost:
    return _recurrence.cost(shape, per="channel")
