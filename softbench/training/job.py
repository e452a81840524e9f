"""The training job: data, learner, loop, evaluation, records and checkpoints bound together so that no work is lost."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from softbench import options as opts
from softbench import records
from softbench.case import ModelSpec
from softbench.config import Process
from softbench.dtypes import FLOAT32
from softbench.errors import ResultsError, UsageError
from softbench.machine import device, environment
from softbench.models import checkpoints
from softbench.processes import setup
from softbench.processes.stopping import SIGNALS, Asked, Stop
from softbench.records import Record
from softbench.training import checkpoint, data, distributed, fingerprint, journal, loop, seeding
from softbench.training.badimages import BadImages
from softbench.training.distributed import Group
from softbench.training.evaluate import Scores, evaluate
from softbench.training.learner import Learner
from softbench.training.plan import Job, Plan, data_name, opts_text
from softbench.training.position import Position
from softbench.training.views import TRAIN

CHECKPOINTS, _LOCK = "checkpoints", ".lock"
_NOT_BEGUN = "Stopped before the first step. The same command begins or goes on."
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


def train(job: Job, watch: Watch) -> list[Record]:
    """Train, or go on training, and return the records of the whole run; on processes other than the first, none.

    Raises:
        UsageError: the request is wrong. ResultsError: it cannot go on. Interrupted: a signal came; what was done is in
            a checkpoint.
    """
    state = setup.apply(Process(threads=job.threads or distributed.threads_each()))
    with ExitStack() as stack:
        group = stack.enter_context(distributed.processes(job.device))
        stop = stack.enter_context(Stop(at_once=group.world == 1))
        stack.callback(data.end_workers)
        try:
            found = None
            with group.together():
                if group.leads:
                    stack.enter_context(_alone(job.out))
                    found = _found(job, watch.say)
            found = group.shared(found)
            with group.together():
                plan = Plan(job, group, found)
                run = _Run(plan, group, watch, stop, environment.take(state, str(group.device), job.command), found)
            run.prepare(found)
            del found
            run.train()
            stop.hold()
        except Asked as asked:
            raise Stop.error(asked.signal, _NOT_BEGUN) from None
        return journal.own(job.out, plan.name) if group.leads else []


def look(job: Job, say: Callable[[str], None]) -> None:
    """Say what `train` would do, after everything that it checks before the first step. Writes and changes nothing.

    Raises:
        UsageError, ResultsError: as `train` would.
    """
    group = Group(distributed.rank(), distributed.world_size(), torch.device(job.device))
    _check_free(job.out)
    found = _found(job, say)
    with seeding.kept():
        plan = Plan(job, group, found)
    records.check_writable(job.out / journal.RECORDS)
    if job.tensorboard:
        journal.check_tensorboard()
    position = Position.read(found["position"], job.out) if found else None
    for line in plan.described(position):
        say(line)


def _found(job: Job, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The checkpoint to go on from, None to start anew.

    Raises:
        ResultsError: it is not one of a run of `train`. UsageError: there is one, and there should not be.
    """
    newest = checkpoint.newest(job.out / CHECKPOINTS, say)
    if newest is None:
        return None
    if not job.resume:
        raise UsageError(f"{job.out} holds a run already: give another --out, or leave out --no-resume to go on.")
    found, path = newest
    try:
        said = checkpoints.trained(found, path)
        Position.read(found.get("position"), path)
    except ResultsError as error:
        raise ResultsError(f"{error} Start anew with another --out.") from error
    if not (said and type(said.run.get("batch")) is int and said.run["batch"] > 0
            and all(isinstance(found.get(part), dict) for part in ("state_dict", "optimizer", "scaler", "images"))
            and isinstance(found.get("records", []), list)):
        raise ResultsError(f"{path} is not a checkpoint of a run of train-imagenet. Start anew with another --out.")
    return found


class _Run:
    """A job at work on one process."""

    def __init__(self, plan: Plan, group: Group, watch: Watch, stop: Stop, env: dict[str, Any],
                 found: dict[str, Any] | None) -> None:
        self.plan, self.group, self.watch, self.stop, self.environment = plan, group, watch, stop, env
        self.job, self.recipe, self.source, self.name = plan.job, plan.recipe, plan.source, plan.name
        self.model, self.loader, self.validation = plan.model, plan.loader, plan.validation
        self.folder = self.job.out / CHECKPOINTS
        self.position = Position.read(found["position"], self.folder) if found else Position()
        self.last = journal.restored(found.get("records", []), self.folder) if found else []
        self.bad, self.bad_in_val = (
            BadImages(split, title, self.job.out, self.job.max_bad, group, known, watch.say) for split, title, known in
            ((plan.train, "train", self.position.bad), (self.source.val, "val", [])))
        self.board: Any = None
        if group.leads:
            self._open(self.job)
        self.saved = time.monotonic()
        self.begun = False

    def prepare(self, found: dict[str, Any] | None) -> None:
        """Set the learner up on all processes together, as it was in a checkpoint where one was found."""
        self.learner = Learner(self.model, self.recipe, self.job.arithmetic, classes=self.source.classes,
                               steps=self.loader.steps, group=self.group)
        if found is not None:
            self.learner.load(found, self.position.updates)
        else:
            self.learner.move(0)
        if self.group.leads:
            for line in self.plan.described(self.position if found is not None else None):
                self.watch.say(line)

    def _open(self, job: Job) -> None:
        with journal.aside(self.watch.say):
            records.write_whole(job.out / journal.ARGS, journal.toml({
                "job": {"arch": job.arch, "data": job.data, "attention": opts_text(job.options), "device": job.device,
                        "processes": self.group.world, "workers": job.workers, "limit": job.limit,
                        "on_nan": job.on_nan, "max_bad": job.max_bad, "command": job.command,
                        **vars(job.arithmetic)},
                "recipe": opts.to_dict(self.recipe)}))
        records.check_writable(job.out / journal.RECORDS)
        journal.settle(job.out, self.name, self.position.epoch, self.last)
        with journal.aside(self.watch.say):
            self.board = journal.tensorboard(job.out) if job.tensorboard else None

    def train(self) -> None:
        """The epochs that are left."""
        if stopped := int(max(self.group.gathered(self.stop.signal))):
            with self.group.together():
                raise Stop.error(stopped, _NOT_BEGUN)
        try:
            while self.position.epoch < self.recipe.epochs:
                self._steps()
                scores = self._evaluate()
                with self.stop.held():
                    self._finish(scores)
        except Asked as asked:
            if not self.position.updates:
                raise
            self._stopped(asked.signal)
        with journal.aside(self.watch.say):
            if self.board is not None:
                self.board.close()

    def _wish(self, batches: list[data.Batch]) -> list[float]:
        """What the processes sum up after each step: a checkpoint that is due, images that are bad, signals."""
        due = self.group.leads and time.monotonic() - self.saved > 60 * self.job.minutes
        return [float(due), float(sum(len(batch.bad) for batch in batches)),
                *(float(self.stop.signal == number) for number in SIGNALS)]

    def _steps(self) -> None:
        skipped = 0
        for step in loop.steps(self.learner, self.loader, self.position, self._wish, self.stop.held):
            due, bad, *signals = step.wishes
            if not self.begun:
                self.begun, self.position.first = True, step.seconds
                self.watch.say(f"First step: {step.seconds:.2f} s")
            if bad:
                self.bad.note([index for batch in step.batches for index in batch.bad])
            if not step.finite:
                skipped += 1
                self._broken(step, skipped)
            else:
                skipped = 0
                self.watch.step(self.position, self.loader.steps, self.recipe.epochs, step.loss, step.lr,
                                self.recipe.total_batch / step.seconds)
            if any(signals):
                self._stopped(next(number for number, asked in zip(SIGNALS, signals, strict=True) if asked))
            elif due:
                self._save()

    def _broken(self, step: loop.Step, times: int) -> None:
        """A step whose loss or gradients are not finite."""
        position = self.position
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
        position.peak = max(position.peak, self._memory())
        numbers = {"train_loss": position.loss / max(1, position.counted), "lr": position.lr}
        for suffix, found in scores.items():
            numbers |= {f"loss{suffix}": found.loss, f"top1{suffix}": found.top1, f"top5{suffix}": found.top5}
        numbers |= {"images_per_second": position.counted * recipe.total_batch / max(position.seconds, 1e-9),
                    "peak_memory": position.peak}
        waited = position.waited / max(position.seconds, 1e-9)
        if waited > _SLOW_LOADER:
            self.watch.say(f"Warning: {waited:.0%} of the time went by waiting for images; raise --workers"
                           f" (now {self.job.workers}).")
        suffix = max(scores, key=lambda name: scores[name].top1)
        best = scores[suffix].top1 > position.best.get("top1", -1.0)
        if best:
            position.best = {"top1": scores[suffix].top1, "epoch": position.epoch + 1, "weights": f"state_dict{suffix}"}
        self.last = self._records(numbers, waited, scores[""].images)
        self.watch.epoch(position.epoch + 1, recipe.epochs, numbers)
        position.next_epoch()
        self._save(best=best)
        with self.group.together():  # what is killed before this finds the records in the checkpoint
            if self.group.leads:
                self._keep(numbers)

    def _records(self, numbers: dict[str, float], waited: float, images: int) -> list[Record]:
        job, recipe, epoch = self.job, self.recipe, self.position.epoch + 1
        return journal.made(
            TRAIN, numbers, spec=ModelSpec(job.arch, job.options), model=self.model, batch=recipe.batch,
            image=(recipe.img_size, recipe.img_size),
            dtype=FLOAT32 if job.arithmetic.amp == "none" else job.arithmetic.amp,
            device=self.group.device.type, seed=recipe.seed, environment=self.environment,
            coords={"data": data_name(job.data), "epoch": epoch, "epochs": recipe.epochs,
                    "total_batch": recipe.total_batch, "classes": self.source.classes, "images": images,
                    "run": self.name},
            detail={"settings": job.identity, "devices": self.group.world, "accumulated": self.learner.accumulate,
                    "first_step_seconds": self.position.first or None, "waited_share": waited,
                    "skipped_steps": self.position.skipped, "bad_images": len(self.bad.known),
                    "data_digest": fingerprint.digest(self.plan.data), "compile": job.arithmetic.compile,
                    "fsdp": job.arithmetic.fsdp})

    def _keep(self, numbers: dict[str, float]) -> None:
        """Write the records of the epoch that has ended, and what is drawn from them."""
        records.append(self.job.out / journal.RECORDS, self.last)
        with journal.aside(self.watch.say):
            records.write_whole(self.job.out / journal.SUMMARY, journal.summary(journal.own(self.job.out, self.name)))
        with journal.aside(self.watch.say):
            if self.board is not None:
                for quantity, number in numbers.items():
                    self.board.add_scalar(quantity, number, self.position.epoch)
                self.board.flush()

    def _memory(self) -> float:
        """The most bytes so far: of torch on this GPU, or the resident set of this process on a CPU."""
        if device.is_gpu(self.group.device):
            return float(device.peak(self.group.device))
        import resource

        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def _save(self, best: bool = False) -> None:
        self.position.peak = max(self.position.peak, self._memory())
        state = self.learner.state()
        with self.group.together():
            if self.group.leads:
                plain = json.dumps({"run": self.job.identity, "arch": self.job.arch, "options": self.job.options,
                                    "classes": self.source.classes, "class_names": self.source.names,
                                    "images": self.plan.images, "data": self.plan.data,
                                    "position": self.position.as_dict(),
                                    "records": [record.to_json() for record in self.last],
                                    "environment": self.environment})  # some are subclasses of str, which torch refuses
                checkpoint.save(self.folder, state | json.loads(plain), self.position.updates, best=best)
        self.saved = time.monotonic()


def _check_free(out: Path) -> None:
    """Raise UsageError where a run is at work in a folder."""
    try:
        handle = os.open(out / _LOCK, os.O_RDONLY)
    except OSError:  # none was ever there
        return
    try:
        _lock(handle, out)
    finally:
        os.close(handle)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold a folder for this run alone. Raises UsageError where another run has it, ResultsError where it cannot be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ResultsError(f"Cannot write into {out}: {error.strerror}. Choose another folder with --out.") from error
    try:
        _lock(handle, out)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, out: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"Another run is at work in {out}: wait for it, or choose another --out.") from None
    except OSError as error:
        raise ResultsError(f"Cannot lock {out}: {error.strerror}. Its file system has no locks, which records need:"
                           " choose a folder on another with --out.") from error
