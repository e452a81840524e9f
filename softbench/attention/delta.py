"""Delta: the delta rule of DeltaNet, which replaces what the state says of a key instead of adding to it.

    S_t = S_(t-1) + beta_t k_t (v_t - S_(t-1)^T k_t)^T,   o_t = S_t^T q_t / sqrt(D)

q, k [B, H, N, D]; v [B, H, N, E]; the state S [B, H, D, E] has D E numbers a head at any N. beta [B, H, N] from 0 to 1
is how much of the old value is replaced. With keys longer than sqrt(2 / beta) the state grows without bound; models
give keys of length 1, workloads do too, and `normalise` makes them so.

`recurrent` goes token by token; `chunk` takes up to C = 64 tokens at a time as matrix products (`_recurrence`). Work N
C (5 D + 3 E) + 6 N D E operations a head, memory N (D + E). In a chunk, what is written is the solution of a triangular
system.

Source: Yang et al., Parallelizing Linear Transformers with the Delta Rule over Sequence Length, NeurIPS 2024 (arXiv
2406.06484); Schlag et al., ICML 2021 (arXiv 2102.11174).
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
INPUTS = {"beta": ("head", 0.0, 1.0)}
IMPLS = ("chunk", "recurrent")
UNIT_KEYS = True


@dataclass(frozen=True)
class Options:
    normalise: bool = option(False, "divide q and k by their lengths, as the models do; else they are taken as given")


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return _recurrence.Recurrence(impl, normalise=options.normalise)


def cost(shape: Shape, options: Options) -> Cost:
    return _recurrence.cost(shape, delta=True)
