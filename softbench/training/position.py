"""The position: where in its epochs a job is, and what it has counted since the epoch began. Kept in checkpoints."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from softbench.errors import ResultsError


@dataclass
class Position:
    """`epoch` whole epochs and `step` steps of the next are done.

    Attributes:
        updates: steps done in all.
        loss: sum of the losses of this epoch's steps; `counted` is how many these are.
        skipped: steps of all epochs that were left out as their numbers were not finite.
        seconds, waited: time of this epoch's steps, and how much of it went by waiting for batches.
        lr: the learning rate of the last step.
        first: seconds of the first step since the run was last started.
        peak: the most bytes that any of its processes had.
        bad: indices of training samples that could not be read, of all epochs.
        best: the best of the task's first score so far, by its name, and where it was.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss: float = 0.0
    counted: int = 0
    skipped: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    lr: float = 0.0
    first: float = 0.0
    peak: float = 0.0
    bad: list[int] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, table: Any, path: Path) -> Self:
        """The position that the checkpoint at `path` holds. Raises ResultsError where it is something else."""
        fresh = cls()
        names = {field.name for field in fields(cls)}
        if not (isinstance(table, dict) and set(table) <= names
                and all(_alike(value, getattr(fresh, name)) for name, value in table.items())
                and all(_alike(index, 0) for index in table.get("bad", ()))
                and all(_alike(value, _BEST.get(key, 0.0)) for key, value in table.get("best", {}).items())):
            raise ResultsError(f"{path} does not say how far its training had come: it is damaged, or of no"
                               " training.")
        return cls(**table)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def next_epoch(self) -> None:
        """Begin to count anew."""
        self.epoch += 1
        self.step = self.counted = 0
        self.loss = self.seconds = self.waited = 0.0


_BEST = {"epoch": 0, "weights": ""}


def _alike(value: Any, example: Any) -> bool:
    """True where a value is of the kind of another; numbers count something, and are finite and not negative."""
    if isinstance(example, float) and type(value) in (int, float):
        return math.isfinite(value) and value >= 0
    return type(value) is type(example) and (not isinstance(example, int) or value >= 0)
