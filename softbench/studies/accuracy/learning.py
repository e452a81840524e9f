"""One run: an encoder with one attention learns one task, and is scored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from softbench import options
from softbench.case import AttentionSpec, Shape
from softbench.contracts import task as contract
from softbench.contracts.attention import Attention
from softbench.contracts.recipe import SmallRecipe
from softbench.contracts.study import Finding
from softbench.errors import Unsupported
from softbench.machine import device
from softbench.models import encoder
from softbench.records import Record
from softbench.studies.accuracy.settings import Settings
from softbench.training import samples

_TRIAL = 0.1  # of a budget of seconds, spent before to know how long a step takes

if TYPE_CHECKING:
    from softbench.training.samples import Learned


class Kept(contract.Task):
    """A task whose samples are made once for all runs of a process; those of the task before are dropped."""

    _label, _splits = "", dict[str, contract.Samples]()

    def open(self, split: str) -> contract.Samples:
        """The samples of a split, which nobody changes."""
        if Kept._label != self.label:
            Kept._label, Kept._splits = self.label, {}
        if split not in self._splits:
            self._splits[split] = super().open(split)
        return self._splits[split]


def kept(spec: AttentionSpec) -> contract.Task:
    """The task that one item of `--task` names. Raises UsageError where its settings allow no sample."""
    task = contract.load(spec.name, spec.options)
    few = replace(task, settings=replace(task.settings, train=1, val=1, test=1))
    for split in contract.SPLITS:
        few.open(split)
    return Kept(task.name, task.module, task.settings, task.changed)


@dataclass(frozen=True)
class Subject:
    """An attention that is to learn a task."""

    problem: contract.Task
    spec: AttentionSpec
    attention: Attention
    settings: Settings

    @property
    def chance(self) -> float:
        """The accuracy of a guess."""
        return self.problem.chance()

    def shape(self, grid: tuple[int, int]) -> Shape:
        """One call of the attention on the task's grid of tokens."""
        return Shape(1, self.settings.heads, *grid, self.settings.width // self.settings.heads)

    def finding(self, quantity: str, value: float | None, part: str, *, unit: str = "1", **more: Any) -> Finding:
        """One number of this attention on this task."""
        coords: dict[str, Any] = {"data": self.problem.label, "part": part} | more.pop("coords", {})
        if self.settings.budget:
            coords["budget"] = f"{self.settings.budget:g} s of training"
        if self.attention.size_option:
            coords["size"] = self._size()
        return Finding(quantity=quantity, value=value, unit=unit, attention=self.attention.name, label=self.spec.label,
                       options=options.to_dict(self.attention.options), coords=coords, **more)


    def _size(self) -> int:
        """How many landmarks, features or the like there are: the task's grid may hold fewer than asked for."""
        module, most = self.attention.module, int(getattr(self.attention.options, str(self.attention.size_option)))
        if not hasattr(module, "rank"):
            return most
        grid = self.problem.form(self.problem.open("test")).grid
        return min(most, int(module.rank(self.shape(grid), self.attention.options)))


def choose(subject: Subject, rate: float) -> list[Finding]:
    """The accuracy on validation samples that a learning rate reaches."""
    def finding(value: float | None, **more: Any) -> list[Finding]:
        return [subject.finding("val_accuracy", value, "rate", coords={"lr": rate}, seed=subject.settings.seed, **more)]

    try:
        learned = _learn(subject, rate, subject.settings.seed, "val", points=0)
    except Unsupported as error:
        return finding(None, status="unsupported", note=str(error))
    detail = {"samples": learned.samples}
    if learned.diverged:
        return finding(None, detail=detail, status="diverged", note=f"after {learned.steps:,} steps")
    return finding(_accuracy(subject, learned.scores), detail=detail)


def score(subject: Subject, seed: int, choosing: Sequence[Record]) -> list[Finding]:
    """The accuracy on test samples with the learning rate that was best on validation samples, and how it came."""
    rate = best(choosing)
    if rate is None:
        why = choosing[0] if choosing else None
        return [subject.finding("test_accuracy", None, "run", seed=seed, status=why.status if why else "failed",
                                note=why.note if why else "no run chose a learning rate")]
    learned = _learn(subject, rate, seed, "test", subject.settings.points)
    detail = {"lr": rate, "steps": learned.steps, "answers": learned.answers, "parameters": learned.parameters,
              "samples": learned.samples}
    if learned.diverged:
        return [subject.finding("test_accuracy", None, "run", seed=seed, detail=detail, status="diverged",
                                note=f"after {learned.steps:,} steps")]
    return [subject.finding("test_accuracy", _accuracy(subject, learned.scores), "run", seed=seed, detail=detail),
            subject.finding("train_time", learned.seconds, "run", unit="s", seed=seed),
            *(subject.finding("val_accuracy", _accuracy(subject, point.scores), "point", seed=seed,
                              coords={"steps": point.steps}) for point in learned.curve)]


def best(choosing: Sequence[Record]) -> float | None:
    """The learning rate with the highest accuracy, the smallest of several; None where no run has one."""
    reached = [(-record.value, float(record.coords["lr"])) for record in choosing if record.value is not None]
    return min(reached)[1] if reached else None


def _learn(subject: Subject, rate: float, seed: int, split: str, points: int) -> Learned:
    settings = subject.settings
    size = {key: getattr(settings, key) for key in ("width", "depth", "heads", "mlp_ratio", "conv")}
    task = samples.SampleTask(subject.problem, options.parse(encoder.Size, size, "the encoder"),
                              subject.spec.impl or "auto")
    recipe = task.recipe({"lr": rate, "seed": seed} | ({"epochs": settings.epochs} if settings.epochs else {}))
    learn = partial(samples.learn, attention=subject.spec.name, device=device.find(settings.device),
                    attn_options=options.to_dict(subject.attention.options))
    steps = recipe.epochs * (len(subject.problem.open("train")) // recipe.total_batch)
    if settings.budget:
        trial = learn(task, recipe=recipe, split="val", seconds=settings.budget * _TRIAL)
        steps = max(1, int(settings.budget * trial.steps / trial.seconds))
        task, recipe = _of_steps(task, recipe, steps)
    return learn(task, recipe=recipe, split=split, every=math.ceil(steps / points) if points else 0)


def _of_steps(task: samples.SampleTask, recipe: SmallRecipe, steps: int) -> tuple[samples.SampleTask, SmallRecipe]:
    """The task and recipe with as many epochs as give so many steps, and so many samples in each."""
    most = len(task.task.open("train")) // recipe.total_batch
    epochs = math.ceil(steps / max(1, most))
    fewer = replace(task.task.settings, train=math.ceil(steps / epochs) * recipe.total_batch)
    return (replace(task, task=replace(task.task, settings=fewer, changed=task.task.changed | {"train": fewer.train})),
            replace(recipe, epochs=epochs))


def _accuracy(subject: Subject, scores: dict[str, float]) -> float:
    return scores[subject.problem.module.SCORES[0]]
