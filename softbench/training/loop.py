"""The loop of one epoch: batches in, steps out, each agreed on by all processes before the weights move."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from softbench.errors import ResultsError, UsageError
from softbench.processes.stopping import Asked
from softbench.training.data import Batch, TrainingLoader
from softbench.training.learner import Learner
from softbench.training.position import Position


@dataclass(frozen=True)
class Step:
    """What all processes know after a step.

    Attributes:
        loss: mean over the total batch; `finite` says whether it and the gradients were: if not, nothing has moved.
        lr: the learning rate it was made with.
        seconds: what it took, `waited` of it for images.
        wishes: sums over the processes of what each `wish` returned.
        batches, losses: the micro-batches of this process.
    """

    loss: float
    lr: float
    seconds: float
    waited: float
    wishes: list[float]
    batches: list[Batch]
    losses: list[Tensor]
    finite: bool


def steps(learner: Learner, loader: TrainingLoader, position: Position, wish: Callable[[list[Batch]], list[float]],
          held: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Iterator[Step]:
    """The steps of the epoch at `position` that are left; the position moves with each that was finite.

    Args:
        wish: numbers that each process brings in and all get the sums of: signals, counts of bad images.
        held: puts off `Asked` within a block: from where the weights move until the next step is asked for.
    """
    batches = loader.epoch(position.epoch, position.step)
    while position.step < loader.steps:
        started = time.perf_counter()
        waited = 0.0
        buffers, moved = learner.buffers(), False
        found: list[Batch] = []
        losses: list[Tensor] = []
        try:
            for turn in range(learner.accumulate):
                asked = time.perf_counter()
                batch = _next(batches, learner.classes)
                waited += time.perf_counter() - asked
                number = (position.step * learner.accumulate + turn) * learner.group.world + learner.group.rank
                losses.append(learner.loss_of(batch, position.epoch, number, last=turn == learner.accumulate - 1))
                found.append(batch)
            norm = learner.norm()
            mean = torch.stack(losses).mean()
            whole = bool(mean.isfinite()) and (learner.scaler.is_enabled() or bool(norm.isfinite()))
            total, broken, *wishes = learner.group.summed(
                [float(mean) if whole else 0.0, float(not whole), *wish(found)])
            with held():
                moved = True
                loss, position.lr = total / learner.group.world, learner.lr
                if broken:
                    learner.put_back(buffers)
                else:
                    learner.update(position.updates + 1)
                    position.loss += loss
                    position.counted += 1
                    advance(learner, position)
                learner.forget()
                seconds = time.perf_counter() - started
                position.seconds += seconds
                position.waited += waited
                yield Step(loss, position.lr, seconds, waited, wishes, found, losses, not broken)
        except Asked:
            if not moved:  # yet batch norm has seen images of this step
                learner.restore(buffers)
            raise


def advance(learner: Learner, position: Position) -> None:
    """One step is done, or left out."""
    position.step += 1
    position.updates += 1
    learner.move(position.updates)


def _next(batches: Iterator[Batch], classes: int) -> Batch:
    """The next micro-batch, whose labels the model has outputs for."""
    try:
        batch = next(batches)
    except StopIteration:
        raise ResultsError("The training images ended before the epoch did: the data set holds fewer than it says, or"
                           " has too few shards for so many processes and workers.") from None
    low, high = int(batch.labels.min()), int(batch.labels.max())
    if low < 0:
        raise ResultsError("No training image could be read in many tries in a row: is the data still there? The same"
                           " command goes on from the last checkpoint.")
    if high >= classes:
        raise UsageError(f"A training image has the label {high}, and there are {classes} classes, counted from 0."
                         " Check --classes and the class map.")
    return batch
