"""Tasks whose samples lie in memory, as training sees them: an encoder around any attention learns them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench import options
from softbench.case import AttentionSpec
from softbench.contracts import task as contract
from softbench.contracts.recipe import SMALL, SmallRecipe, changed, differences
from softbench.errors import UsageError
from softbench.inputs import seeding
from softbench.inputs.order import PADDING, Order, Shard
from softbench.models import encoder
from softbench.training import learner as learners
from softbench.training import loop
from softbench.training.distributed import Group
from softbench.training.learner import Arithmetic, Learner
from softbench.training.position import Position
from softbench.training.task import Network

Recipe = SmallRecipe
Model = encoder.Size
_ARCH = "-encoder"  # behind the attention, in what archs are called


@dataclass
class Batch:
    """Some samples: `inputs` and `queries` as models take them, labels [B] or [B, Q]; indices may be padding."""

    inputs: tuple[Tensor, ...]
    labels: Tensor
    indices: list[int]
    bad: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class SampleTask:
    """A task of the list as it is asked for, and the size of the encoder that learns it."""

    task: contract.Task
    size: encoder.Size = field(default_factory=encoder.Size)
    impl: str = "auto"

    word = "sample"

    @property
    def data(self) -> str:
        """The task with its settings."""
        return self.task.label

    title = data

    @property
    def scores(self) -> tuple[str, ...]:
        """The scores of the task, and the loss."""
        return (*self.task.module.SCORES, "loss")

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values that decide the result."""
        settings = {"task": options.to_dict(self.task.settings), "model": options.to_dict(self.size)}
        return {"data": self.task.name, "impl": self.impl,
                **{f"{kind}.{key}": value for kind, table in settings.items() for key, value in table.items()}}

    def recipe(self, values: Mapping[str, Any]) -> SmallRecipe:
        """The recipe of this task, with other values."""
        return changed(changed(SMALL, self.task.recipe), values)

    def open(self, recipe: Recipe, *, rank: int, world: int, accumulate: int, workers: int, device: torch.device
             ) -> Lesson:
        """The samples to learn from and those that it is judged by."""
        return Lesson(self, recipe, accumulate=accumulate, rank=rank, world=world, device=device)


class Split:
    """A split on a device, to be judged by."""

    shared = True

    def __init__(self, task: SampleTask, split: str, batch: int, rank: int, world: int, device: torch.device) -> None:
        self.task, self.device = task.task, device
        samples = task.task.open(split)
        self.form, self.scores = task.task.form(samples), task.scores
        arrays = [samples.inputs, *([] if samples.queries is None else [samples.queries])]
        self.inputs = tuple(torch.from_numpy(array).to(device) for array in arrays)
        self.labels = torch.from_numpy(samples.labels).to(device).long()
        self.fingerprint: dict[str, Any] = {split: samples.digest()}
        self.shard = Shard(len(samples), batch, rank, world)
        self.grid = self.form.grid
        self.remarks = [f"Chance: {task.task.chance():.4g}"]

    def coords(self, answers: int) -> dict[str, Any]:
        """The coordinates of scores over so many answers."""
        return {"classes": self.form.classes, "answers": answers}

    def name(self, split: str, index: int) -> str:
        """The name of a sample, none of which is unreadable."""
        return f"{split} {index}"

    def validation(self) -> Iterator[Batch]:
        """Its batches, each sample once over all processes."""
        return (self.batch([place for _, place in keys]) for keys in self.shard)

    def batch(self, indices: list[int]) -> Batch:
        """These samples; the first stands where there is only padding."""
        places = torch.tensor(indices, device=self.device).clamp(min=0)
        return Batch(tuple(array[places] for array in self.inputs), self.labels[places], indices)

    def judged(self, network: Network, batch: Batch) -> Tensor:
        """Numbers of answers among the first and the first five, the sum of losses, and the number of answers."""
        real = torch.tensor(batch.indices, device=self.device) != PADDING
        logits, labels = network(*batch.inputs)[real].flatten(0, -2), batch.labels[real].flatten()
        ranked = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == labels[:, None]  # [A, 5]
        sums = {"loss": F.cross_entropy(logits, labels, reduction="sum"), "top5": ranked.sum()}
        return torch.stack([sums.get(name, ranked[:, 0].sum()).double() for name in self.scores]
                           + [torch.tensor(labels.numel(), dtype=torch.float64, device=self.device)])

    def close(self) -> None:
        """Nothing loads."""


class Lesson(Split):
    """The validation split, and the training split as batches with their loss."""

    loads = False

    def __init__(self, task: SampleTask, recipe: Recipe, *, accumulate: int, rank: int, world: int,
                 device: torch.device) -> None:
        super().__init__(task, "val", recipe.batch, rank, world, device)
        self.size, self.impl = task.size, task.impl
        self.training = Training(Split(task, "train", recipe.batch, rank, world, device), recipe, accumulate, rank,
                                 world)
        self.fingerprint |= self.training.split.fingerprint
        self.kept: dict[str, Any] = {}
        self.summary = f"{task.title}, {len(self.training.split.labels):,} samples"

    def changes(self, kept: Mapping[str, Any]) -> list[str]:
        """How the samples differ from those that a checkpoint was made with."""
        return differences(kept["data"], self.fingerprint)

    def build(self, arch: str, attention: Mapping[str, Any]) -> nn.Module:
        """An encoder with the attention that an arch names."""
        return encoder.create(self.form, arch.removesuffix(_ARCH), attention, self.impl, **options.to_dict(self.size))

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The mean loss over all answers."""
        return F.cross_entropy(network(*batch.inputs).flatten(0, -2), batch.labels.flatten())


class Training:
    """The training batches of one process."""

    def __init__(self, split: Split, recipe: Recipe, accumulate: int, rank: int, world: int) -> None:
        self.split = split
        self.order = Order(len(split.labels), recipe.batch, accumulate, rank, world, recipe.seed)
        self.steps = self.order.steps
        if not self.steps:
            raise UsageError(f"There are {len(split.labels):,} samples to learn from, fewer than one total batch of"
                             f" {recipe.total_batch:,}: give a smaller --total-batch.")

    def epoch(self, number: int, step: int) -> Iterator[Batch]:
        """The micro-batches of an epoch that are left from a step on."""
        self.order.epoch, self.order.step = number, step
        return (self.split.batch([place for _, place in keys]) for keys in self.order)


def whole(name: str, attention: AttentionSpec, size: Model, settings: Mapping[str, Any]
          ) -> tuple[str, SampleTask, Recipe]:
    """The arch, the task as training sees it, and its recipe."""
    task = SampleTask(contract.load(name, settings), size, attention.impl or "auto")
    return f"{attention.name}{_ARCH}", task, task.recipe({})


@dataclass(frozen=True)
class Reached:
    """A point of a learning curve: after so many steps and seconds of training, the scores on validation samples."""

    steps: int
    seconds: float
    train_loss: float
    scores: dict[str, float]


@dataclass(frozen=True)
class Learned:
    """The end of a training: the scores on a split, over so many answers; none of one that diverged.

    `samples` has the digest of each split that was learned from, looked at, or scored.
    """

    scores: dict[str, float]
    answers: int
    curve: list[Reached]
    steps: int
    seconds: float
    parameters: int
    diverged: bool
    samples: dict[str, str] = field(default_factory=dict)


def learn(task: SampleTask, attention: str, attn_options: Mapping[str, Any], recipe: Recipe, *, device: str = "cpu",
          split: str = "test", every: int = 0, seconds: float = math.inf, stop: Callable[[], bool] = lambda: False
          ) -> Learned:
    """Learn a task in this process, without a folder, and score the last weights once.

    The generators of the process are given back as they were.

    Args:
        split: to be scored on.
        every: steps between the points of the curve, besides that after each epoch; 0 for none.
        seconds: of steps after which training ends, whatever the recipe says.
        stop: asked after each step; where true, training ends.
    Raises:
        UsageError: settings that do not fit. Unsupported: the attention cannot run on the grid of the task.
    """
    group = Group(0, 1, torch.device(device))
    with seeding.kept():
        lesson = task.open(recipe, rank=0, world=1, accumulate=learners.accumulation(recipe, 1), workers=0,
                           device=group.device)
        judged = lesson if split == "val" else Split(task, split, recipe.batch, 0, 1, group.device)
        digests = lesson.fingerprint | judged.fingerprint
        seeding.reseed(recipe.seed, seeding.WEIGHTS)
        learner = Learner(lesson.build(attention, attn_options), lesson.loss, recipe, Arithmetic(),
                          steps=lesson.training.steps, group=group)
        learner.move(0)
        parameters = sum(p.numel() for p in learner.model.parameters())
        curve: list[Reached] = []
        position, spent, over = Position(), 0.0, False
        while position.epoch < recipe.epochs and not over:
            for step in loop.steps(learner, lesson.training, position, lambda batches: []):
                spent += step.seconds
                if not step.finite:
                    return Learned({}, 0, curve, position.updates, spent, parameters, True, digests)
                over = spent >= seconds or stop()
                last = position.step == lesson.training.steps or over
                if last or (every and position.updates % every == 0):
                    loss = position.loss / position.counted
                    curve.append(Reached(position.updates, spent, loss, _scores(learner, lesson).means))
                if over:
                    break
            position.next_epoch()
        scores = _scores(learner, judged)
    diverged = not math.isfinite(scores.means["loss"])  # by the last step, after which no other looked
    return Learned({} if diverged else scores.means, 0 if diverged else scores.answers, curve, position.updates, spent,
                   parameters, diverged, digests)


def _scores(learner: Learner, split: Split) -> loop.Scores:
    scores = loop.evaluate(learner.model, split, split.scores, learner.group, amp="none")
    assert scores is not None
    return scores
