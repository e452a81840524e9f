"""The position: where in its epochs a job is, and what it has counted since the epoch began. Kept in checkpoints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Position:
    """`epoch` whole epochs and `step` steps of the next are done.

    Attributes:
        updates: steps done in all.
        loss: sum of the losses of this epoch's steps; `counted` is how many these are.
        skipped: steps of all epochs that were left out as their numbers were not finite.
        seconds, waited: time of this epoch's steps, and how much of it went by waiting for images.
        bad: indices of training images that could not be read, of all epochs.
        best: the best top-1 so far and where it was.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss: float = 0.0
    counted: int = 0
    skipped: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    bad: list[int] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def next_epoch(self) -> None:
        """Begin to count anew."""
        self.epoch += 1
        self.step = self.counted = 0
        self.loss = self.seconds = self.waited = 0.0
