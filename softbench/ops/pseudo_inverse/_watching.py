"""A check at run time: `watch()` notes how far from the inverse each result within it is, at two products a call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

# Residuals that single precision reaches on the worst kernels (condition 5,000) stay below it, by any method.
TOLERANCE = 0.05


@dataclass(eq=False)
class Watch:
    """Counts calls, and keeps the worst residual of any matrix with the method that gave it."""

    calls: int = 0
    worst: float = 0.0
    method: str = ""

    @property
    def converged(self) -> bool:
        return self.worst <= TOLERANCE

    @property
    def note(self) -> str:
        """The sentence for a row that has not converged; "" for one that has."""
        return "" if self.converged else f"inverse not converged: residual {self.worst:.2g} ({self.method})"


_watches: list[Watch] = []


@contextmanager
def watch() -> Iterator[Watch]:
    """Note the residual of every pseudo_inverse call until the end of the block, in all threads.

    Not for timing: each call costs two matrix products and a wait for the device more.
    """
    noted = Watch()
    _watches.append(noted)
    try:
        yield noted
    finally:
        _watches.remove(noted)


def tell(a: Tensor, v: Tensor, ridge: float, method: str) -> None:
    """Tell all watches of one result. On the meta device there is nothing to see."""
    if not _watches or a.is_meta or not a.numel():
        return
    with torch.no_grad():
        worst = residual(a, v, ridge).nan_to_num(torch.inf, torch.inf).amax().item()
    for noted in _watches:
        noted.calls += 1
        if worst >= noted.worst:
            noted.worst, noted.method = worst, method


def residual(a: Tensor, v: Tensor, ridge: float = 0.0) -> Tensor:
    """max(||I - P V||_F, ||I - V P||_F) / sqrt(m) for each matrix, [...], with P = A + ridge I.

    0 for the inverse, 1 for V = 0. Both sides, as rounding spoils one of them first, and which depends on the method.
    """
    one = torch.eye(a.shape[-1], dtype=v.dtype, device=v.device)
    p = a.to(v.dtype) + ridge * one
    left, right = ((one - product).norm(dim=(-2, -1)) for product in (v @ p, p @ v))
    return torch.maximum(left, right) / a.shape[-1] ** 0.5
