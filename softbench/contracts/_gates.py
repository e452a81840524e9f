"""Gates: the numbers that an attention needs beside q, k and v (a decay, a write strength), their sizes and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softbench.case import Shape
from softbench.errors import PluginError, UsageError

_PER = ("head", "channel")


@dataclass(frozen=True)
class Gate:
    """One number for each token of a "head" [B, H, N], or of a "channel" of the keys [B, H, N, D].

    Attributes:
        low, high: the least and the largest that it can be; None for no bound.
    """

    per: str
    low: float | None
    high: float | None

    def size(self, shape: Shape) -> tuple[int, ...]:
        """Its size beside q, k, v of that shape."""
        channels = (shape.head_dim,) if self.per == "channel" else ()
        return shape.batch, shape.heads, shape.tokens, *channels

    def __str__(self) -> str:
        """Say size and range in words."""
        bounds = " ".join(f"{word} {bound:g}" for word, bound in (("at least", self.low), ("at most", self.high))
                          if bound is not None)
        return f"[B, H, N{', D' if self.per == 'channel' else ''}], one a {self.per}{bounds and ', '}{bounds}"


def parse(attention: str, table: Any) -> dict[str, Gate]:
    """The gates that an attention's INPUTS name. Raises PluginError where it does not say them as it must."""
    wrong = PluginError(f"Attention '{attention}': INPUTS must map names to (\"head\" or \"channel\", lowest, highest),"
                        " as in {\"beta\": (\"head\", 0.0, 1.0)}; None is no bound.")
    if not isinstance(table, dict):
        raise wrong
    for name, entry in table.items():
        if not (isinstance(name, str) and name.isidentifier() and isinstance(entry, tuple) and len(entry) == 3
                and entry[0] in _PER and all(bound is None or isinstance(bound, int | float) for bound in entry[1:])):
            raise wrong
    return {name: Gate(*entry) for name, entry in table.items()}


def check(attention: str, gates: Mapping[str, Gate], q: Tensor, inputs: Mapping[str, Any]) -> None:
    """Raise UsageError unless the inputs beside q [B, H, N, D] are these gates, in size and range."""
    for name in inputs:
        if name not in gates:
            takes = f"it takes {', '.join(gates)}" if gates else "it takes nothing beside q, k, v"
            raise UsageError(f"{attention} has no input '{name}': {takes}.")
    shape = Shape(q.shape[0], q.shape[1], 1, q.shape[2], q.shape[3])
    for name, gate in gates.items():
        if not isinstance(tensor := inputs.get(name), Tensor):
            raise UsageError(f"{attention} needs {name} beside q, k, v: a tensor {gate}.")
        if tuple(tensor.shape) != gate.size(shape):
            raise UsageError(f"{name} must be {gate.size(shape)}, {gate}; not {tuple(tensor.shape)}.")
        if not tensor.is_floating_point() or tensor.device != q.device:
            raise UsageError(f"{name} must hold floating-point numbers on {q.device}, not {tensor.dtype} on"
                             f" {tensor.device}.")
        if not tensor.is_meta and tensor.numel():
            _check_range(name, gate, tensor.detach())


def _check_range(name: str, gate: Gate, tensor: Tensor) -> None:
    low, high = (float(bound) for bound in torch.aminmax(tensor))
    within = (gate.low is None or low >= gate.low) and (gate.high is None or high <= gate.high)
    if not within or low != low:
        raise UsageError(f"{name} must be {gate}; here it goes from {low:g} to {high:g}.")
