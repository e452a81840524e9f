"""The training job: data, learner, loop, evaluation, records and checkpoints bound together so that no work is lost."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from softbench import options as opts
from softbench import records
from softbench.case import ModelSpec
from softbench.config import Process
from softbench.errors import ResultsError, UsageError
from softbench.machine import environment
from softbench.processes import setup
from softbench.processes.stopping import Stop
from softbench.records import Record
from softbench.training import checkpoint, data, distributed, fingerprint, journal, learner, loop
from softbench.training.badimages import BadImages
from softbench.training.distributed import Group
from softbench.training.evaluate import Scores, evaluate
from softbench.training.learner import Arithmetic, Learner
from softbench.training.position import Position
from softbench.training.preparing import Prepared
from softbench.training.recipe import Recipe, differences
from softbench.training.sources import open_source
from softbench.training.views import TRAIN

CHECKPOINTS = "checkpoints"
_SLOW_LOADER = 0.2  # share of the time spent waiting for images above which it is said
_MOST_SKIPPED = 50  # steps in a row that --on-nan skip leaves out


class Watch(Protocol):
    """Who is told how the job goes; only the leading process tells anything."""

    def say(self, text: str) -> None:
        """A remark."""

    def step(self, position: Position, steps: int, epochs: int, loss: float, lr: float, speed: float) -> None:
        """A step is done; `speed` is in images a second."""

    def epoch(self, number: int, epochs: int, numbers: dict[str, float]) -> None:
        """An epoch, counted from 1, is done and evaluated."""


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


def train(job: Job, watch: Watch) -> list[Record]:
    """Train, or go on training, and return the records of the whole run; on processes other than the first, none.

    Raises:
        UsageError: the request is wrong. ResultsError: it cannot go on. Interrupted: a signal came; what was done is in
            a checkpoint.
    """
    state = setup.apply(Process(threads=job.threads or distributed.threads_each()))
    with ExitStack() as stack:
        group = stack.enter_context(distributed.processes(torch.device(job.device)))
        stop = stack.enter_context(Stop())
        found = None
        with group.together():
            if group.leads:
                stack.enter_context(_alone(job.out))
                found = _found(job, watch)
        found = group.shared(found)
        with group.together():
            run = _Run(job, group, watch, stop, environment.take(state, str(group.device), job.command), found)
        run.prepare(found)
        del found
        run.train()
        return journal.own(job.out, run.name) if group.leads else []


def _found(job: Job, watch: Watch) -> dict[str, Any] | None:
    """The checkpoint to go on from, None to start anew."""
    found = checkpoint.newest(job.out / CHECKPOINTS, watch.say)
    if found is not None and not job.resume:
        raise UsageError(f"{job.out} holds a run already: give another --out, or leave out --no-resume to go on.")
    return found[0] if found else None


class _Run:
    """A job at work on one process; what can go wrong before the first step goes wrong here."""

    def __init__(self, job: Job, group: Group, watch: Watch, stop: Stop, env: dict[str, Any],
                 found: dict[str, Any] | None) -> None:
        self.group, self.watch, self.stop, self.environment = group, watch, stop, env
        self.folder = job.out / CHECKPOINTS
        if not job.given_batch:
            batch = found["run"]["batch"] if found else learner.fitting_batch(job.recipe, group.world)
            job = replace(job, recipe=replace(job.recipe, batch=batch))
        self.job, self.recipe = job, job.recipe
        if found and (changes := differences(found["run"], job.identity)):
            raise UsageError(f"{job.out} holds a run with another recipe ({'; '.join(changes)}). Give the same flags to"
                             " go on, or another --out to start anew.")
        learner.check(self.recipe, job.arithmetic, group)
        self.source = open_source(job.data, classes=job.classes, class_map=job.class_map, splits=job.splits,
                                  batch=self.recipe.batch, seed=self.recipe.seed)
        assert self.source.train is not None
        self.images = {"train": self.source.train.size, "val": self.source.val.size}
        self.data = self._same_data(found)
        common: dict[str, Any] = {"rank": group.rank, "world": group.world, "workers": job.workers,
                                  "pin": group.device.type == "cuda"}
        self.loader = data.TrainingLoader(
            self.source.train, self.recipe, accumulate=learner.accumulation(self.recipe, group.world),
            subset=data.subset(self.source.train.size, job.limit, self.recipe.seed), **common)
        self.validation = data.evaluation_loader(
            self.source.val, Prepared.by_recipe(self.recipe), batch=self.recipe.batch,
            subset=data.subset(self.source.val.size, job.limit, self.recipe.seed), **common)
        self.model: nn.Module = learner.build(job.arch, job.options, self.recipe, self.source.classes)
        more = {"data_digest": fingerprint.digest(self.data)} if self.data else {}
        self.name = fingerprint.digest(job.identity | more)
        self.position = Position(**found["position"]) if found else Position()
        self.bad = BadImages(self.source.train, "train", job.out, job.max_bad, group, self.position.bad, watch.say)
        self.bad_in_val = BadImages(self.source.val, "val", job.out, job.max_bad, group, [], watch.say)
        self.board: Any = None
        if group.leads:
            self._open(job)
        self.saved = time.monotonic()
        self.first: float | None = None
        self.lr = 0.0

    def _same_data(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """The fingerprint of the data that this run began with. Raises UsageError where they are others now."""
        now = fingerprint.of(self.source)
        if found is None:
            return now
        kept: dict[str, Any] | None = found.get("data")  # none in checkpoints of earlier versions
        changes = fingerprint.changes(kept, now) if kept else differences(found.get("images", self.images), self.images)
        if changes:
            raise UsageError(f"{self.job.data} has other images than when the run in {self.job.out} began"
                             f" ({'; '.join(changes)}). Give the same data to go on, or another --out to start anew.")
        return kept

    def prepare(self, found: dict[str, Any] | None) -> None:
        """Set the learner up on all processes together, as it was in a checkpoint where one was found."""
        self.learner = Learner(self.model, self.recipe, self.job.arithmetic, classes=self.source.classes,
                               steps=self.loader.steps, group=self.group)
        if found is not None:
            self.learner.load(found, self.position.updates)
        else:
            self.learner.move(0)
        if self.group.leads:
            self._announce(resumed=found is not None)

    def _open(self, job: Job) -> None:
        with journal.aside(self.watch.say):
            records.write_whole(job.out / journal.ARGS, journal.toml({
                "job": {"arch": job.arch, "data": job.data, "attention": opts_text(job.options), "device": job.device,
                        "processes": self.group.world, "workers": job.workers, "limit": job.limit,
                        "on_nan": job.on_nan, "max_bad": job.max_bad, "command": job.command,
                        **vars(job.arithmetic)},
                "recipe": opts.to_dict(self.recipe)}))
        records.check_writable(job.out / journal.RECORDS)
        with journal.aside(self.watch.say):
            self.board = journal.tensorboard(job.out) if job.tensorboard else None

    def _announce(self, resumed: bool) -> None:
        recipe, position = self.recipe, self.position
        parameters = sum(p.numel() for p in self.model.parameters())
        self.watch.say(f"{ModelSpec(self.job.arch, self.job.options).label}: {parameters / 1e6:.2f} M parameters,"
                       f" {self.source.classes:,} classes, images of {recipe.img_size} pixels, on"
                       f" {self.group.world} x {self.group.device.type}, amp {self.job.arithmetic.amp}")
        self.watch.say(f"Total batch {recipe.total_batch:,} = {recipe.batch} images x {self.group.world} device"
                       f"{'s' * (self.group.world > 1)} x {self.learner.accumulate} accumulated;"
                       f" {self.loader.steps:,} steps an epoch, {recipe.epochs} epochs")
        self.watch.say(f"Evaluation: {Prepared.by_recipe(recipe)}")
        for remark in self.source.remarks:
            self.watch.say(remark)
        if resumed:
            done = position.epoch >= recipe.epochs
            self.watch.say(f"Finished already: all {recipe.epochs} epochs are in {self.job.out}." if done else
                           f"Going on in {self.job.out} after epoch {position.epoch}, step {position.step}.")

    def train(self) -> None:
        """The epochs that are left."""
        if stopped := int(max(self.group.gathered(self.stop.signal))):
            with self.group.together():
                raise Stop.error(stopped, "Stopped before the first step. The same command begins or goes on.")
        while self.position.epoch < self.recipe.epochs:
            self._steps()
            scores = self._evaluate()
            self._finish(scores)
        with journal.aside(self.watch.say):
            if self.board is not None:
                self.board.close()

    def _wish(self, batches: list[data.Batch]) -> list[float]:
        """What the processes sum up after each step: signals, whether a checkpoint is due, images that are bad."""
        due = self.group.leads and time.monotonic() - self.saved > 60 * self.job.minutes
        return [float(self.stop.signal == 15), float(self.stop.signal == 2), float(due),
                float(sum(len(batch.bad) for batch in batches))]

    def _steps(self) -> None:
        skipped = 0
        for step in loop.steps(self.learner, self.loader, self.position, self._wish):
            terminated, interrupted, due, bad = step.wishes
            if self.first is None:
                self.first = step.seconds
                self.watch.say(f"First step: {step.seconds:.2f} s")
            self.lr = step.lr
            if bad:
                self.bad.note([index for batch in step.batches for index in batch.bad])
            if not step.finite:
                skipped += 1
                self._broken(step, skipped)
            else:
                skipped = 0
                self.watch.step(self.position, self.loader.steps, self.recipe.epochs, step.loss, step.lr,
                                self.recipe.total_batch / step.seconds)
            if terminated or interrupted:
                self._stopped(15 if terminated else 2)
            elif due:
                self._save()

    def _broken(self, step: loop.Step, times: int) -> None:
        """A step whose loss or gradients are not finite."""
        position, split = self.position, self.source.train
        assert split is not None
        where = self.job.out / f"nan-step-{position.updates + 1:08d}.json"
        parts = self.group.gathered({
            "rank": self.group.rank, "losses": [repr(float(loss)) for loss in step.losses],
            "indices": [batch.indices for batch in step.batches]})
        if self.group.leads:
            text = {"epoch": position.epoch + 1, "step": position.step + 1, "lr": step.lr, "processes": parts}
            with journal.aside(self.watch.say):
                records.write_whole(where, json.dumps(text, indent=1) + "\n")
        what = f"The loss or its gradient is not finite in epoch {position.epoch + 1}, step {position.step + 1}"
        if self.job.on_nan == "skip" and times <= _MOST_SKIPPED:
            position.skipped += 1
            loop.advance(self.learner, position)
            self.watch.say(f"Warning: {what}; the step is left out, its images are in {where}.")
            return
        self._save()
        with self.group.together():
            raise ResultsError(f"{what}. The weights before it are in a checkpoint, its images in {where}. Give"
                               " --on-nan skip to leave such steps out, or start anew with a smaller lr.")

    def _stopped(self, signal: int) -> None:
        self._save()
        with self.group.together():
            raise Stop.error(signal, f"Stopped in epoch {self.position.epoch + 1} after step {self.position.step} of"
                                     f" {self.loader.steps}; a checkpoint is in {self.folder}. The same command goes on"
                                     " from there.")

    def _evaluate(self) -> dict[str, Scores]:
        networks: dict[str, nn.Module] = {"": self.learner.model}
        if self.learner.ema:
            networks["_ema"] = self.learner.ema.module
        found = {}
        self.learner.agree()
        for suffix, network in networks.items():
            scores = evaluate(network, self.validation, self.group, prepare=self.learner.images,
                              autocast=self.learner.autocast, stopped=lambda: self.stop.signal != 0,
                              shared=self.source.val.stream is None)
            if scores is None:
                self._stopped(int(max(self.group.gathered(self.stop.signal))))
                raise AssertionError("unreachable")
            self.bad_in_val.note(scores.bad)
            found[suffix] = scores
        return found

    def _finish(self, scores: dict[str, Scores]) -> None:
        """Record an evaluated epoch and keep it."""
        position, recipe = self.position, self.recipe
        numbers = {"train_loss": position.loss / max(1, position.counted), "lr": self.lr}
        for suffix, found in scores.items():
            numbers |= {f"loss{suffix}": found.loss, f"top1{suffix}": found.top1, f"top5{suffix}": found.top5}
        numbers |= {"images_per_second": position.counted * recipe.total_batch / max(position.seconds, 1e-9),
                    "peak_memory": self._peak_memory()}
        waited = position.waited / max(position.seconds, 1e-9)
        if waited > _SLOW_LOADER:
            self.watch.say(f"Warning: {waited:.0%} of the time went by waiting for images; raise --workers"
                           f" (now {self.job.workers}).")
        suffix = max(scores, key=lambda name: scores[name].top1)
        best = scores[suffix].top1 > position.best.get("top1", -1.0)
        if best:
            position.best = {"top1": scores[suffix].top1, "epoch": position.epoch + 1, "weights": f"state_dict{suffix}"}
        with self.group.together():
            if self.group.leads:
                self._record(numbers, waited, scores[""].images)
        self.watch.epoch(position.epoch + 1, recipe.epochs, numbers)
        position.next_epoch()
        self._save(best=best)

    def _record(self, numbers: dict[str, float], waited: float, images: int) -> None:
        job, recipe, epoch = self.job, self.recipe, self.position.epoch + 1
        found = journal.made(
            TRAIN, numbers, spec=ModelSpec(job.arch, job.options), model=self.model, batch=recipe.batch,
            image=(recipe.img_size, recipe.img_size),
            dtype="float32" if job.arithmetic.amp == "none" else job.arithmetic.amp,
            device=self.group.device.type, seed=recipe.seed, environment=self.environment,
            coords={"data": data_name(job.data), "epoch": epoch, "epochs": recipe.epochs,
                    "total_batch": recipe.total_batch, "classes": self.source.classes, "images": images,
                    "run": self.name},
            detail={"settings": job.identity, "devices": self.group.world, "accumulated": self.learner.accumulate,
                    "first_step_seconds": self.first, "waited_share": waited, "skipped_steps": self.position.skipped,
                    "bad_images": len(self.bad.known), "data_digest": fingerprint.digest(self.data),
                    "compile": job.arithmetic.compile, "fsdp": job.arithmetic.fsdp})
        records.append(job.out / journal.RECORDS, found)
        with journal.aside(self.watch.say):
            records.write_whole(job.out / journal.SUMMARY, journal.summary(journal.own(job.out, self.name)))
        with journal.aside(self.watch.say):
            self._draw(numbers, epoch)

    def _draw(self, numbers: dict[str, float], epoch: int) -> None:
        if self.board is not None:
            for quantity, number in numbers.items():
                self.board.add_scalar(quantity, number, epoch)
            self.board.flush()

    def _peak_memory(self) -> float:
        """Bytes: of torch on this GPU, or the resident set of this process on a CPU."""
        if self.group.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.group.device))
        import resource

        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def _save(self, best: bool = False) -> None:
        state = self.learner.state()
        with self.group.together():
            if self.group.leads:
                plain = json.dumps({"run": self.job.identity, "arch": self.job.arch, "options": self.job.options,
                                    "classes": self.source.classes, "class_names": self.source.names,
                                    "images": self.images, "data": self.data,
                                    "position": self.position.as_dict(),
                                    "environment": self.environment})  # some are subclasses of str, which torch refuses
                checkpoint.save(self.folder, state | json.loads(plain), self.position.updates, best=best)
        self.saved = time.monotonic()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold a folder for this run alone. Raises UsageError where another run has it, ResultsError where it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ResultsError(f"Cannot write into {out}: {error.strerror}. Choose another folder with --out.") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(f"Another run is at work in {out}: wait for it, or choose another --out.") from None
    except OSError as error:
        os.close(handle)
        raise ResultsError(f"Cannot lock {out}: {error.strerror}. Its file system has no locks, which records need:"
                           " choose a folder on another with --out.") from error
    try:
        yield
    finally:
        os.close(handle)


