"""Gates for made-up tokens: decays, write strengths and the like, drawn within the range that an attention declares.

With x ~ N(0, 1) for each number: between two bounds low + (high - low) sigmoid(x); below one, high + log sigmoid(x) /
16, which as the logarithm of a decay halves a state about every fifteen tokens (as in Gated Linear Attention); above
one, low + softplus(x); without any, x.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from softbench.case import Shape
from softbench.contracts.attention import Gate


def draw(gates: Iterable[Gate], shape: Shape, seed: int) -> list[Tensor]:
    """One tensor for each gate, in float32 on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return [_within(gate, torch.randn(gate.size(shape), generator=generator, dtype=torch.float32)) for gate in gates]


def _within(gate: Gate, x: Tensor) -> Tensor:
    if gate.low is not None and gate.high is not None:
        return gate.low + (gate.high - gate.low) * x.sigmoid()
    if gate.high is not None:
        return gate.high + F.logsigmoid(x) / 16
    return x if gate.low is None else gate.low + F.softplus(x)
