"""A run: the epochs of a plan on one process, their steps and evaluations, and whatever ends them early."""

from __future__ import annotations

import json
from typing import Protocol

from torch import nn

from softbench import records
from softbench.errors import ResultsError
from softbench.processes.stopping import SIGNALS, Asked, Stop
from softbench.training import journal, loop
from softbench.training.journal import Unreadable
from softbench.training.learner import Learner
from softbench.training.ledger import Ledger, memory
from softbench.training.loop import Scores
from softbench.training.plan import Plan
from softbench.training.position import Position
from softbench.training.task import Batch

NOT_BEGUN = "Stopped before the first step. The same command begins or goes on."
_SLOW_LOADER = 0.2  # share of the time spent waiting for batches above which it is said
_MOST_SKIPPED = 50  # steps in a row that --on-nan skip leaves out


class Watch(Protocol):
    """Who is told how a job goes; only the leading process tells anything."""

    def say(self, text: str) -> None:
        """A remark."""

    def step(self, position: Position, steps: int, epochs: int, loss: float, lr: float, speed: float) -> None:
        """A step is done; `speed` is in samples a second."""

    def epoch(self, number: int, epochs: int, numbers: dict[str, float]) -> None:
        """An epoch, counted from 1, is done and evaluated."""


class Run:
    """A plan at work."""

    def __init__(self, plan: Plan, learner: Learner, position: Position, ledger: Ledger, stop: Stop, watch: Watch
                 ) -> None:
        self.plan, self.learner, self.position, self.ledger = plan, learner, position, ledger
        self.stop, self.watch, self.group = stop, watch, plan.group
        self.train_bad, self.val_bad = (
            Unreadable(plan.lesson, split, plan.job.task.word, plan.job.out, plan.job.max_bad, plan.group, known,
                       watch.say) for split, known in (("train", position.bad), ("val", [])))
        self.begun = False

    def train(self) -> None:
        """Train the epochs that are left.

        Raises:
            Interrupted: a signal came; what was done is in a checkpoint. ResultsError: it cannot go on.
        """
        if stopped := int(max(self.group.gathered(self.stop.signal))):
            with self.group.together():
                raise Stop.error(stopped, NOT_BEGUN)
        try:
            while self.position.epoch < self.plan.recipe.epochs:
                self._steps()
                scores = self._evaluated()
                with self.stop.held():
                    self._finish(scores)
        except Asked as asked:
            if not self.position.updates:
                raise
            self._stopped(asked.signal)

    def _tally(self, batches: list[Batch]) -> list[float]:
        """Numbers that the processes sum up after each step: is a checkpoint due, how much is unreadable, signals."""
        return [float(self.group.leads and self.ledger.due), float(sum(len(batch.bad) for batch in batches)),
                *(float(self.stop.signal == number) for number in SIGNALS)]

    def _steps(self) -> None:
        plan, position = self.plan, self.position
        skipped = 0
        for step in loop.steps(self.learner, plan.lesson.training, position, self._tally, self.stop.held):
            due, bad, *signals = step.tallies
            if not self.begun:
                self.begun, position.first = True, step.seconds
                self.watch.say(f"First step: {step.seconds:.2f} s")
            if bad:
                self.train_bad.note([index for batch in step.batches for index in batch.bad])
            if step.finite:
                skipped = 0
                self.watch.step(position, plan.lesson.training.steps, plan.recipe.epochs, step.loss, step.lr,
                                plan.recipe.total_batch / step.seconds)
            else:
                skipped += 1
                self._broken(step, skipped)
            if any(signals):
                self._stopped(next(number for number, count in zip(SIGNALS, signals, strict=True) if count))
            elif due:
                self._save()

    def _broken(self, step: loop.Step, times: int) -> None:
        """Leave out a step whose loss or gradients are not finite, or stop."""
        job, position = self.plan.job, self.position
        where = job.out / f"nan-step-{position.updates + 1:08d}.json"
        parts = self.group.gathered({
            "rank": self.group.rank, "losses": [repr(float(loss)) for loss in step.losses],
            "indices": [batch.indices for batch in step.batches]})
        if self.group.leads:
            text = {"epoch": position.epoch + 1, "step": position.step + 1, "lr": step.lr, "processes": parts}
            with journal.aside(self.watch.say):
                records.write_whole(where, json.dumps(text, indent=1) + "\n")
        what = f"The loss or its gradient is not finite in epoch {position.epoch + 1}, step {position.step + 1}"
        if job.on_nan == "skip" and times <= _MOST_SKIPPED:
            position.skipped += 1
            loop.advance(self.learner, position)
            self.watch.say(f"Warning: {what}; the step is left out, its {job.task.word}s are in {where}.")
            return
        self._save()
        with self.group.together():
            raise ResultsError(f"{what}. The weights before it are in a checkpoint, its {job.task.word}s in {where}."
                               " Give --on-nan skip to leave such steps out, or start anew with a smaller lr.")

    def _stopped(self, signal: int) -> None:
        self._save()
        with self.group.together():
            raise Stop.error(signal, f"Stopped in epoch {self.position.epoch + 1} after step {self.position.step} of"
                                     f" {self.plan.lesson.training.steps}; a checkpoint is in {self.ledger.folder}. The"
                                     " same command goes on from there.")

    def _evaluated(self) -> dict[str, Scores]:
        """The scores of the model, by "", and of its average, by "_ema"."""
        learner, scores = self.learner, {}
        networks: dict[str, nn.Module] = {"": learner.model} | ({"_ema": learner.ema.module} if learner.ema else {})
        learner.agree()
        for suffix, network in networks.items():
            part = loop.evaluate(network, self.plan.lesson, self.plan.job.task.scores, self.group,
                                 amp=learner.arithmetic.amp, stopped=lambda: self.stop.signal != 0)
            if part is None:
                self._stopped(int(max(self.group.gathered(self.stop.signal))))
                raise AssertionError("unreachable")
            self.val_bad.note(part.bad)
            scores[suffix] = part
        return scores

    def _finish(self, scores: dict[str, Scores]) -> None:
        """Record an evaluated epoch and keep it."""
        position, task = self.position, self.plan.job.task
        position.peak = max(position.peak, memory(self.group.device))
        numbers = {"train_loss": position.loss / max(1, position.counted), "lr": position.lr}
        for suffix, part in scores.items():
            numbers |= {f"{name}{suffix}": part.means[name] for name in ("loss", *task.scores) if name in part.means}
        numbers |= {f"{task.word}s_per_second":
                    position.counted * self.plan.recipe.total_batch / max(position.seconds, 1e-9),
                    "peak_memory": position.peak}
        waited = position.waited / max(position.seconds, 1e-9)
        if waited > _SLOW_LOADER and self.plan.lesson.loads:
            self.watch.say(f"Warning: {waited:.0%} of the time went by waiting for {task.word}s; raise --workers"
                           f" (now {self.plan.job.workers}).")
        first = task.scores[0]
        suffix = max(scores, key=lambda name: scores[name].means[first])
        best = scores[suffix].means[first] > position.best.get(first, -1.0)
        if best:
            position.best = {first: scores[suffix].means[first], "epoch": position.epoch + 1,
                             "weights": f"state_dict{suffix}"}
        self.ledger.close_epoch(numbers, position, waited, scores[""].answers, len(self.train_bad.known))
        self.watch.epoch(position.epoch + 1, self.plan.recipe.epochs, numbers)
        position.next_epoch()
        self._save(best=best)
        with self.group.together():  # what is killed before this finds the records in the checkpoint
            if self.group.leads:
                self.ledger.write(numbers, position)

    def _save(self, best: bool = False) -> None:
        self.ledger.save(self.learner, self.position, best=best)
