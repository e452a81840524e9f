"""The seam between training and what is learned: a task is asked for, opened to a lesson, and gives batches.

What is in a batch only its task knows. Whatever has these attributes is a task: `softbench.tasks` imports nothing from
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Network = Callable[..., Tensor]  # a model under autocast, whose output is float32


class Batch(Protocol):
    """The samples that a device computes at once: their `indices` in the split, and those that are `bad`."""

    indices: list[int]
    bad: list[int]


class Training(Protocol):
    """The training batches of one process; `steps` total batches are an epoch."""

    @property
    def steps(self) -> int: ...

    def epoch(self, number: int, step: int) -> Iterator[Any]:
        """The micro-batches that are left of an epoch from a step on: a function of (seed, number, step) alone."""


class Judged(Protocol):
    """A validation split that is open.

    Attributes:
        shared: the processes have different batches, each sample once; otherwise each process has all of them.
        grid: rows and columns of a sample.
        remarks: what is to be said of the data once.
        fingerprint: plain values that tell these data from others of the same name.
    """

    shared: bool
    remarks: list[str]
    fingerprint: dict[str, Any]

    @property
    def grid(self) -> tuple[int, int]: ...

    def coords(self, answers: int) -> dict[str, Any]:
        """The coordinates of scores over so many answers."""

    def name(self, split: str, index: int) -> str:
        """The name of a sample of "train" or "val"."""

    def validation(self) -> Iterator[Any]:
        """Its batches."""

    def judged(self, network: Network, batch: Any) -> Tensor:
        """The sums of each score over a batch, then how many answers these are of: [scores + 1], float64."""

    def close(self) -> None:
        """End whatever loads."""


class Lesson(Judged, Protocol):
    """Both splits, open.

    Attributes:
        loads: processes load the samples; otherwise these lie in memory.
        kept: plain values for checkpoints, which `changes` may read later.
        summary: what is to be learned, in a few words.
    """

    loads: bool
    kept: dict[str, Any]
    summary: str

    @property
    def training(self) -> Training: ...

    def changes(self, kept: Mapping[str, Any]) -> list[str]:
        """How the data differ from those that a checkpoint was made with. LookupError, TypeError: it is damaged."""

    def build(self, arch: str, options: Mapping[str, Any]) -> nn.Module:
        """The model; the generators are seeded."""

    def loss(self, network: Network, batch: Any) -> Tensor:
        """The mean loss over a batch; the generators are seeded."""


class Task(Protocol):
    """Something to learn, as it is asked for.

    Attributes:
        word: a sample, as in "images per second".
        scores: names of what is judged; the first decides which epoch was the best.
        data: as they were asked for; `title` is their name in records.
        identity: plain values that decide the result.
    """

    @property
    def word(self) -> str: ...

    @property
    def scores(self) -> tuple[str, ...]: ...

    @property
    def data(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def identity(self) -> dict[str, Any]: ...

    def open(self, recipe: Any, *, rank: int, world: int, accumulate: int, workers: int, device: torch.device
             ) -> Lesson:
        """The data, open. Raises UsageError where they cannot be learned like this."""
