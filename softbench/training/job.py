"""The training job: opens a folder, data, model and processes, and hands them to a run, so that no work is lost."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from softbench import records
from softbench.config import Process
from softbench.errors import ResultsError, UsageError
from softbench.inputs import seeding
from softbench.machine import environment
from softbench.models import checkpoints
from softbench.processes import setup
from softbench.processes.stopping import Asked, Stop
from softbench.records import Record
from softbench.training import checkpoint, distributed, journal
from softbench.training.distributed import Group
from softbench.training.learner import Learner
from softbench.training.ledger import CHECKPOINTS, Ledger
from softbench.training.plan import Job, Plan
from softbench.training.position import Position
from softbench.training.run import NOT_BEGUN, Run, Watch

_LOCK = ".lock"


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
        try:
            kept = None
            with group.together():
                if group.leads:
                    stack.enter_context(_alone(job.out))
                    kept = _kept(job, watch.say)
            kept = group.shared(kept)
            with group.together():
                plan = Plan(job, group, kept)
                stack.callback(plan.lesson.close)
                position, last = _reached(job, kept)
                ledger = Ledger(plan, environment.take(state, str(group.device), job.command), last, watch.say)
                if group.leads:
                    ledger.open(position.epoch)
            learner = _learner(plan, kept, position, watch.say)
            del kept
            Run(plan, learner, position, ledger, stop, watch).train()
            ledger.close()
            stop.hold()
        except Asked as asked:
            raise Stop.error(asked.signal, NOT_BEGUN) from None
        return journal.own(job.out, plan.name) if group.leads else []


def look(job: Job, say: Callable[[str], None]) -> None:
    """Say what `train` would do, after everything that it checks before the first step. Writes and changes nothing.

    Raises:
        UsageError, ResultsError: as `train` would.
    """
    group = Group(distributed.rank(), distributed.world_size(), torch.device(job.device))
    _check_free(job.out)
    kept = _kept(job, say)
    with seeding.kept():
        plan = Plan(job, group, kept)
    records.check_writable(job.out / journal.RECORDS)
    if job.tensorboard:
        journal.check_tensorboard()
    for line in plan.described(_reached(job, kept)[0] if kept else None):
        say(line)


def _kept(job: Job, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The checkpoint to go on from, None to start anew.

    Raises:
        ResultsError: it is not one of a run of `train`. UsageError: there is one, and there should not be.
    """
    newest = checkpoint.newest(job.out / CHECKPOINTS, say)
    if newest is None:
        return None
    if not job.resume:
        raise UsageError(f"{job.out} holds a run already: give another --out, or leave out --no-resume to go on.")
    kept, path = newest
    try:
        trained = checkpoints.trained(kept, path)
        Position.read(kept.get("position"), path)
    except ResultsError as error:
        raise ResultsError(f"{error} Start anew with another --out.") from error
    if not (trained and type(trained.run.get("batch")) is int and trained.run["batch"] > 0
            and all(isinstance(kept.get(part), dict) for part in ("state_dict", "optimizer", "scaler"))
            and isinstance(kept.get("records", []), list)):
        raise ResultsError(f"{path} is not a checkpoint of a training. Start anew with another --out.")
    return kept


def _reached(job: Job, kept: dict[str, Any] | None) -> tuple[Position, list[Record]]:
    """Where a run is, and the records of the last epoch that is done."""
    if kept is None:
        return Position(), []
    folder = job.out / CHECKPOINTS
    return Position.read(kept["position"], folder), journal.restored(kept.get("records", []), folder)


def _learner(plan: Plan, kept: dict[str, Any] | None, position: Position, say: Callable[[str], None]) -> Learner:
    """The learner, set up on all processes together, as it was in a checkpoint where there is one."""
    learner = Learner(plan.model, plan.lesson.loss, plan.recipe, plan.job.arithmetic,
                      steps=plan.lesson.training.steps, group=plan.group)
    if kept is not None:
        learner.load(kept, position.updates)
    else:
        learner.move(0)
    if plan.group.leads:
        for line in plan.described(position if kept is not None else None):
            say(line)
    return learner


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
