"""Retention: linear attention whose state fades at a fixed rate, another one for each head, as in RetNet.

    S_t = (1 - 2^(-5 - h)) S_(t-1) + k_t v_t^T,   o_t = S_t^T q_t / sqrt(D),   heads h = 0, 1, 2, ...

q, k [B, H, N, D]; v [B, H, N, E]; the state S [B, H, D, E] has D E numbers a head at any N. With `decay=lightning` the
rate of head h of H is exp(-2^(-8 (h + 1) / H)), by the slopes that Lightning Attention's code takes from ALiBi; models
that weaken them layer by layer do so themselves. Rotations of q and k (xPos) and the norm that follows belong to a
model.

`recurrent` goes token by token; `chunk` takes up to C = 64 tokens at a time as matrix products (`_recurrence`). Work 2
N C (D + E) + 4 N D E operations a head, memory N (D + E).

Source: Sun et al., Retentive Network, 2023 (arXiv 2307.08621); Qin et al., Lightning Attention-2, 2024 (arXiv
2401.04658), and its code for the slopes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from softbench.attention import _recurrence
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.options import option

FAMILY = "recurrent"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "always"
IMPLS = ("chunk", "recurrent")


@dataclass(frozen=True)
class Options:
    decay: Literal["retnet", "lightning"] = option(
        "retnet", "rates by head: 1 - 2^(-5 - h), or exp(-2^(-8 (h + 1) / H))")


class Retention(_recurrence.Recurrence):
    def __init__(self, options: Options, impl: str) -> None:
        super().__init__(impl)
        self.options = options

    def gates(self, k: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The logarithm of each head's rate [B, H, N]."""
        heads, dtype = k.shape[1], accumulation_dtype(k.dtype)
        head = torch.arange(heads, dtype=dtype, device=k.device)
        lightning = self.options.decay == "lightning"
        g = -torch.exp2(-8 * (head + 1) / heads) if lightning else torch.log1p(-torch.exp2(-5 - head))
        return {"g": g[:, None].expand(k.shape[:3])}


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Retention(options, impl)


def cost(shape: Shape, options: Options) -> Cost:
    return _recurrence.cost(shape, per="head")
