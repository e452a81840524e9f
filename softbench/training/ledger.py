"""The ledger of a run: what it leaves in its folder, kept by the leading process: records, checkpoints, curves."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from typing import Any

import torch

from softbench import options, records
from softbench.case import ModelSpec
from softbench.contracts.recipe import digest
from softbench.machine import device
from softbench.records import Record
from softbench.records.verbs import TRAIN
from softbench.training import checkpoint, journal
from softbench.training.learner import Learner
from softbench.training.plan import Plan
from softbench.training.position import Position

CHECKPOINTS = "checkpoints"


class Ledger:
    """The folder of a run.

    Attributes:
        last: the records of the last epoch that is done, which checkpoints keep, too.
    """

    def __init__(self, plan: Plan, environment: dict[str, Any], last: list[Record], say: Callable[[str], None]) -> None:
        self.plan, self.environment, self.last, self.say = plan, environment, last, say
        self.folder = plan.job.out / CHECKPOINTS
        self.saved = time.monotonic()
        self.board: Any = None

    def open(self, epochs: int) -> None:
        """Begin, or go on after so many epochs: on the leading process.

        Raises:
            ResultsError: the folder cannot be written into. UsageError: TensorBoard is asked for and not installed.
        """
        job = self.plan.job
        with journal.aside(self.say):
            records.write_whole(job.out / journal.ARGS, journal.toml({
                "job": {"arch": job.arch, **job.task.identity, "data": job.task.data, "attention": job.options_text,
                        "device": job.device, "processes": self.plan.group.world, "workers": job.workers,
                        "on_nan": job.on_nan, "max_bad": job.max_bad, "command": job.command,
                        **vars(job.arithmetic)},
                "recipe": options.to_dict(self.plan.recipe)}))
        records.check_writable(job.out / journal.RECORDS)
        journal.settle(job.out, self.plan.name, epochs, self.last)
        with journal.aside(self.say):
            self.board = journal.tensorboard(job.out) if job.tensorboard else None

    @property
    def due(self) -> bool:
        """True where it is time for a checkpoint."""
        return time.monotonic() - self.saved > 60 * self.plan.job.minutes

    def close_epoch(self, numbers: dict[str, float], position: Position, waited: float, answers: int, bad: int) -> None:
        """Make the records of an epoch that is evaluated."""
        plan, job, recipe = self.plan, self.plan.job, self.plan.recipe
        self.last = journal.made(
            TRAIN, numbers, spec=ModelSpec(job.arch, job.options), model=plan.model, batch=recipe.batch,
            grid=plan.lesson.grid, amp=job.arithmetic.amp, device=plan.group.device.type, seed=recipe.seed,
            environment=self.environment,
            coords={"data": job.task.title, "epoch": position.epoch + 1, "epochs": recipe.epochs,
                    "total_batch": recipe.total_batch, **plan.lesson.coords(answers),
                    "run": plan.name},
            detail={"settings": job.identity, "devices": plan.group.world, "accumulated": plan.accumulate,
                    "first_step_seconds": position.first or None, "waited_share": waited,
                    "skipped_steps": position.skipped, f"bad_{job.task.word}s": bad, "data_digest": digest(plan.data),
                    "compile": job.arithmetic.compile, "fsdp": job.arithmetic.fsdp})

    def write(self, numbers: dict[str, float], position: Position) -> None:
        """Write the records of the epoch that has ended, and what is drawn from them."""
        out = self.plan.job.out
        records.append(out / journal.RECORDS, self.last)
        with journal.aside(self.say):
            records.write_whole(out / journal.SUMMARY, journal.summary(journal.own(out, self.plan.name)))
        with journal.aside(self.say):
            if self.board is not None:
                for quantity, number in numbers.items():
                    self.board.add_scalar(quantity, number, position.epoch)
                self.board.flush()

    def save(self, learner: Learner, position: Position, *, best: bool = False) -> None:
        """Write a checkpoint; all processes call this together."""
        plan, job = self.plan, self.plan.job
        position.peak = max(position.peak, memory(plan.group.device))
        state = learner.state()
        with plan.group.together():
            if plan.group.leads:
                plain = json.dumps({"run": job.identity, "arch": job.arch, "options": job.options, **plan.lesson.kept,
                                    "data": plan.data, "position": position.as_dict(),
                                    "records": [record.to_json() for record in self.last],
                                    "environment": self.environment})  # some are subclasses of str, which torch refuses
                checkpoint.save(self.folder, state | json.loads(plain), position.updates, best=best)
        self.saved = time.monotonic()

    def close(self) -> None:
        """The run has ended."""
        with journal.aside(self.say):
            if self.board is not None:
                self.board.close()


def memory(where: torch.device) -> float:
    """The most bytes so far: of torch on this GPU, or the resident set of this process on a CPU."""
    if device.is_gpu(where):
        return float(device.peak(where))
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
