"""The plan of a training job: what is asked for, and its data and model, checked before anything begins."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from softbench import options
from softbench.case import ModelSpec
from softbench.contracts.recipe import Recipe, differences, digest
from softbench.errors import ResultsError, UsageError
from softbench.inputs import seeding
from softbench.training import learner
from softbench.training.distributed import Group
from softbench.training.learner import Arithmetic
from softbench.training.position import Position
from softbench.training.task import Lesson, Task


@dataclass(frozen=True)
class Job:
    """A training as it is asked for, all of it checked as far as that goes without reading data.

    Attributes:
        recipe: of the kind that the task takes.
        options: of the attention inside the arch.
        given_batch: whether the batch of a device was asked for, or follows from the total batch and the devices.
        minutes: time between checkpoints, besides that after each epoch.
        on_nan: "stop" or "skip" where numbers are not finite.
        max_bad: samples that may be unreadable.
        command: what the user typed.
    """

    arch: str
    task: Task
    out: Path
    recipe: Recipe
    options: dict[str, Any] = field(default_factory=dict)
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    device: str = "cpu"
    given_batch: bool = False
    workers: int = 0
    threads: int = 0
    minutes: float = 10.0
    on_nan: str = "stop"
    max_bad: int = 100
    resume: bool = True
    tensorboard: bool = False
    command: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values that decide the result: a run goes on only where this is the same."""
        return {"arch": ModelSpec(self.arch).display_name, "options": self.options_text, **self.task.identity,
                "amp": self.arithmetic.amp, "sync_bn": self.arithmetic.sync_bn, **options.to_dict(self.recipe)}

    @property
    def options_text(self) -> str:
        """The options as one text, in the order of their names."""
        return ":".join(f"{key}={self.options[key]}" for key in sorted(self.options))


class Plan:
    """A job with its data and model. Whatever can go wrong before the first step goes wrong here.

    Attributes:
        data: the fingerprint of those that the run began with; None where its checkpoint is too old to say.
        name: of the run, in records.
    """

    def __init__(self, job: Job, group: Group, kept: dict[str, Any] | None) -> None:
        """`kept` is the checkpoint to go on from.

        Raises:
            UsageError: the request is wrong, or another than that of the run. ResultsError: the checkpoint is damaged.
        """
        if not job.given_batch:
            batch = kept["run"]["batch"] if kept else learner.fitting_batch(job.recipe, group.world)
            job = replace(job, recipe=replace(job.recipe, batch=batch))
        self.job, self.recipe, self.group = job, job.recipe, group
        if kept and (changes := differences(kept["run"], job.identity)):
            raise UsageError(f"{job.out} holds a run with another recipe ({'; '.join(changes)}). Give the same flags to"
                             " go on, or another --out to start anew.")
        learner.check(self.recipe, job.arithmetic, group)
        self.accumulate = learner.accumulation(self.recipe, group.world)
        self.lesson: Lesson = job.task.open(self.recipe, rank=group.rank, world=group.world,
                                            accumulate=self.accumulate, workers=job.workers, device=group.device)
        self.data = self._same_data(kept)
        seeding.reseed(self.recipe.seed, seeding.WEIGHTS)
        self.model: nn.Module = self.lesson.build(job.arch, job.options)
        more = {"data_digest": digest(self.data)} if self.data else {}
        self.name = digest(job.identity | more)

    def _same_data(self, kept: dict[str, Any] | None) -> dict[str, Any] | None:
        if kept is None:
            return self.lesson.fingerprint
        job, word = self.job, self.job.task.word
        try:
            changes = self.lesson.changes(kept)
        except (LookupError, TypeError) as error:
            raise ResultsError(f"The checkpoint in {job.out} does not tell its data: it is damaged. Start anew"
                               " with another --out.") from error
        if changes:
            raise UsageError(f"{job.task.data} has other {word}s than when the run in {job.out} began"
                             f" ({'; '.join(changes)}). Give the same data to go on, or another --out to start anew.")
        began: dict[str, Any] | None = kept.get("data")
        return began

    def described(self, position: Position | None) -> list[str]:
        """It in words, for a run that begins, or goes on from a position."""
        job, recipe, world = self.job, self.recipe, self.group.world
        parameters = sum(p.numel() for p in self.model.parameters())
        lines = [f"{ModelSpec(job.arch, job.options).label}: {parameters / 1e6:.2f} M parameters,"
                 f" {self.lesson.summary}, on {world} x {self.group.device.type}, amp {job.arithmetic.amp}",
                 f"Total batch {recipe.total_batch:,} = {recipe.batch} {job.task.word}s x {world}"
                 f" device{'s' * (world > 1)} x {self.accumulate} accumulated; {self.lesson.training.steps:,} steps an"
                 f" epoch, {recipe.epochs} epochs", *self.lesson.remarks]
        if position is not None:
            done = position.epoch >= recipe.epochs
            lines.append(f"Finished already: all {recipe.epochs} epochs are in {job.out}." if done else
                         f"Going on in {job.out} after epoch {position.epoch}, step {position.step}.")
        return lines
