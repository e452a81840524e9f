"""The plan of a training job: what is asked for, and its data, loaders and model, checked before anything begins."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from softbench import options as opts
from softbench.case import ModelSpec
from softbench.errors import ResultsError, UsageError
from softbench.machine.device import is_gpu
from softbench.training import data, fingerprint, learner
from softbench.training.distributed import Group
from softbench.training.learner import Arithmetic
from softbench.training.position import Position
from softbench.training.preparing import Prepared
from softbench.training.recipe import Recipe, differences
from softbench.training.sources import open_source


@dataclass(frozen=True)
class Job:
    """What is asked for, all of it checked as far as that goes without reading data.

    Attributes:
        options: of the attention inside the arch.
        given_batch: whether the batch of a device was asked for, or follows from the total batch and the devices.
        limit: at most so many images of each split.
        minutes: time between checkpoints, besides that after each epoch.
        on_nan: "stop" or "skip" where numbers are not finite.
        max_bad: images that may be unreadable.
        command: what the user typed.
    """

    arch: str
    data: str
    out: Path
    recipe: Recipe
    options: dict[str, Any] = field(default_factory=dict)
    arithmetic: Arithmetic = field(default_factory=Arithmetic)
    device: str = "cpu"
    given_batch: bool = False
    workers: int = 0
    threads: int = 0
    limit: int | None = None
    classes: int | None = None
    class_map: str = ""
    splits: tuple[str, str] = ("train", "validation")
    minutes: float = 10.0
    on_nan: str = "stop"
    max_bad: int = 100
    resume: bool = True
    tensorboard: bool = False
    command: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the result: a run goes on only where this is the same."""
        return {"arch": ModelSpec(self.arch).display_name, "options": opts_text(self.options),
                "data": data_name(self.data), "limit": self.limit, "classes": self.classes,
                "class_map": self.class_map, "amp": self.arithmetic.amp, "sync_bn": self.arithmetic.sync_bn,
                **opts.to_dict(self.recipe)}


def opts_text(options: dict[str, Any]) -> str:
    """Options as one text, in the order of their names."""
    return ":".join(f"{key}={options[key]}" for key in sorted(options))


def data_name(name: str) -> str:
    """What records call a data set: a folder goes by its own name, without the way there."""
    return Path(name).resolve().name if Path(name).exists() else name


class Plan:
    """What a job comes to: its data, loaders and model. Whatever can go wrong before the first step goes wrong here."""

    def __init__(self, job: Job, group: Group, found: dict[str, Any] | None) -> None:
        if not job.given_batch:
            batch = found["run"]["batch"] if found else learner.fitting_batch(job.recipe, group.world)
            job = replace(job, recipe=replace(job.recipe, batch=batch))
        self.job, self.recipe, self.group = job, job.recipe, group
        if found and (changes := differences(found["run"], job.identity)):
            raise UsageError(f"{job.out} holds a run with another recipe ({'; '.join(changes)}). Give the same flags to"
                             " go on, or another --out to start anew.")
        learner.check(self.recipe, job.arithmetic, group)
        self.source = open_source(job.data, classes=job.classes, class_map=job.class_map, splits=job.splits,
                                  batch=self.recipe.batch, seed=self.recipe.seed)
        assert self.source.train is not None
        self.train = self.source.train
        self.images = {"train": self.source.train.size, "val": self.source.val.size}
        self.data = self._same_data(found)
        common: dict[str, Any] = {"rank": group.rank, "world": group.world, "workers": job.workers,
                                  "pin": is_gpu(group.device)}
        self.accumulate = learner.accumulation(self.recipe, group.world)
        self.loader = data.TrainingLoader(
            self.source.train, self.recipe, accumulate=self.accumulate,
            subset=data.subset(self.source.train.size, job.limit, self.recipe.seed), **common)
        self.validation = data.evaluation_loader(
            self.source.val, Prepared.by_recipe(self.recipe), batch=self.recipe.batch,
            subset=data.subset(self.source.val.size, job.limit, self.recipe.seed), **common)
        self.model: nn.Module = learner.build(job.arch, job.options, self.recipe, self.source.classes)
        more = {"data_digest": fingerprint.digest(self.data)} if self.data else {}
        self.name = fingerprint.digest(job.identity | more)

    def _same_data(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """The fingerprint of the data that this run began with.

        Raises:
            UsageError: they are others now. ResultsError: the checkpoint does not tell.
        """
        now = fingerprint.of(self.source)
        if found is None:
            return now
        kept: dict[str, Any] | None = found.get("data")  # none in checkpoints of earlier versions
        try:
            changes = fingerprint.changes(kept, now) if kept else differences(found["images"], self.images)
        except (LookupError, TypeError) as error:
            raise ResultsError(f"The checkpoint in {self.job.out} does not tell its data: it is damaged. Start anew"
                               " with another --out.") from error
        if changes:
            raise UsageError(f"{self.job.data} has other images than when the run in {self.job.out} began"
                             f" ({'; '.join(changes)}). Give the same data to go on, or another --out to start anew.")
        return kept

    def described(self, position: Position | None) -> list[str]:
        """It in words, for a run that begins, or goes on from a position."""
        job, recipe, world = self.job, self.recipe, self.group.world
        parameters = sum(p.numel() for p in self.model.parameters())
        lines = [f"{ModelSpec(job.arch, job.options).label}: {parameters / 1e6:.2f} M parameters,"
                 f" {self.source.classes:,} classes, images of {recipe.img_size} pixels, on"
                 f" {world} x {self.group.device.type}, amp {job.arithmetic.amp}",
                 f"Total batch {recipe.total_batch:,} = {recipe.batch} images x {world} device{'s' * (world > 1)} x"
                 f" {self.accumulate} accumulated; {self.loader.steps:,} steps an epoch, {recipe.epochs} epochs"]
        lines += [f"Evaluation: {Prepared.by_recipe(recipe)}", *self.source.remarks]
        if position is not None:
            done = position.epoch >= recipe.epochs
            lines.append(f"Finished already: all {recipe.epochs} epochs are in {job.out}." if done else
                         f"Going on in {job.out} after epoch {position.epoch}, step {position.step}.")
        return lines
