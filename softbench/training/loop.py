"""The loops of an epoch: steps, each agreed on by all processes before the weights move, and the evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from softbench.errors import ResultsError
from softbench.processes.stopping import Asked
from softbench.training.distributed import Group
from softbench.training.learner import Learner, called
from softbench.training.position import Position
from softbench.training.task import Batch, Judged, Training


@dataclass(frozen=True)
class Step:
    """A step that is done, as all processes know it.

    Attributes:
        loss: mean over the total batch; `finite` says whether it and the gradients were: if not, nothing has moved.
        lr: the learning rate it was made with.
        seconds: what it took, `waited` of it for batches.
        tallies: sums over the processes of what `tally` returned on each.
        batches, losses: the micro-batches of this process.
    """

    loss: float
    lr: float
    seconds: float
    waited: float
    tallies: list[float]
    batches: list[Batch]
    losses: list[Tensor]
    finite: bool


def steps(learner: Learner, training: Training, position: Position, tally: Callable[[list[Batch]], list[float]],
          held: Callable[[], AbstractContextManager[Any]] = nullcontext) -> Iterator[Step]:
    """The steps of the epoch at `position` that are left; the position moves with each that was finite.

    Args:
        tally: numbers that each process brings in and all get the sums of: signals, counts of what is unreadable.
        held: puts off `Asked` within a block: from where the weights move until the next step is asked for.
    """
    left = training.epoch(position.epoch, position.step)
    while position.step < training.steps:
        started = time.perf_counter()
        waited = 0.0
        buffers, moved = learner.buffers(), False
        batches: list[Batch] = []
        losses: list[Tensor] = []
        try:
            for turn in range(learner.accumulate):
                since = time.perf_counter()
                batch = next(left, None)
                waited += time.perf_counter() - since
                if batch is None:
                    raise ResultsError("The training data ended before the epoch did: the data set holds less than it"
                                       " says, or has too few shards for so many processes and workers.")
                number = (position.step * learner.accumulate + turn) * learner.group.world + learner.group.rank
                losses.append(learner.loss_of(batch, position.epoch, number, last=turn == learner.accumulate - 1))
                batches.append(batch)
            norm = learner.norm()
            mean = torch.stack(losses).mean()
            whole = bool(mean.isfinite()) and (learner.scaler.is_enabled() or bool(norm.isfinite()))
            total, broken, *tallies = learner.group.summed(
                [float(mean) if whole else 0.0, float(not whole), *tally(batches)])
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
                yield Step(loss, position.lr, seconds, waited, tallies, batches, losses, not broken)
        except Asked:
            if not moved:  # yet batch norm has seen samples of this step
                learner.restore(buffers)
            raise


def advance(learner: Learner, position: Position) -> None:
    """One step is done, or left out."""
    position.step += 1
    position.updates += 1
    learner.move(position.updates)


@dataclass(frozen=True)
class Scores:
    """The mean of each score over so many answers, what it took, and the samples that could not be read."""

    means: dict[str, float]
    answers: int
    seconds: float
    waited: float
    bad: list[int]


@torch.no_grad()
def evaluate(model: nn.Module, judged: Judged, names: Sequence[str], group: Group, *, amp: str,
             stopped: Callable[[], bool] = lambda: False) -> Scores | None:
    """The scores of a model over a validation split, each sample counted once over all processes.

    Returns None where a process was asked to stop in between.

    Raises:
        ResultsError: nothing could be read. UsageError: the data do not fit the model.
    """
    training = model.training
    model.eval()
    network = called(model, amp, group.device)
    sums = torch.zeros(len(names) + 1, dtype=torch.float64, device=group.device)  # the last one counts answers
    bad: list[int] = []
    begun, waited = time.perf_counter(), 0.0
    batches = judged.validation()
    try:
        while True:
            since = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - since
            if any(group.summed([float(stopped())])):
                return None
            if batch is None:
                break
            bad += batch.bad
            sums += judged.judged(network, batch)
    finally:
        model.train(training)
    numbers = sums.tolist()
    seconds = time.perf_counter() - begun
    if judged.shared:
        numbers = group.summed(numbers)
        bad = [index for some in group.gathered(bad) for index in some]
    answers = round(numbers[-1])
    if not answers:
        raise ResultsError("Nothing of the validation split could be read.")
    return Scores({name: number / answers for name, number in zip(names, numbers, strict=False)}, answers, seconds,
                  waited, bad)
