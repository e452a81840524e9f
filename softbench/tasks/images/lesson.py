"""Images as training sees them: batches, their loss, and the scores of a network over the validation split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torch.nn import functional as F

from softbench import models
from softbench.contracts.recipe import differences
from softbench.errors import ResultsError, UsageError
from softbench.machine.device import is_gpu
from softbench.tasks.images import data, fingerprint
from softbench.tasks.images.data import Batch, TrainingLoader
from softbench.tasks.images.preparing import Prepared
from softbench.tasks.images.recipe import Recipe
from softbench.tasks.images.sources import Source, open_source

Network = Callable[..., Tensor]  # a model under autocast, whose output is float32


@dataclass(frozen=True)
class ImageTask:
    """Images to tell the classes of, as they are asked for.

    Attributes:
        data: as `--data` names them; `splits`, `class_map` and `classes` as `open_source` takes them.
        limit: at most so many images of each split.
    """

    data: str
    splits: tuple[str, str] = ("train", "validation")
    class_map: str = ""
    classes: int | None = None
    limit: int | None = None

    word: ClassVar[str] = "image"
    scores: ClassVar[tuple[str, ...]] = ("top1", "top5", "loss")

    @property
    def title(self) -> str:
        """The name of the data in records: a folder goes by its own name, without the way there."""
        return Path(self.data).resolve().name if Path(self.data).exists() else self.data

    @property
    def identity(self) -> dict[str, Any]:
        """Plain values that decide the result."""
        return {"data": self.title, "limit": self.limit, "classes": self.classes, "class_map": self.class_map}

    def open(self, recipe: Recipe, *, rank: int, world: int, accumulate: int, workers: int, device: torch.device
             ) -> Lesson:
        """The images, read as far as it takes to know them.

        Raises:
            UsageError: there are none such, or they cannot be mixed as the recipe says.
        """
        if recipe.mixes and recipe.batch % 2:
            raise UsageError(f"Mixup pairs images, and a device's batch of {recipe.batch} is odd: give an even --batch,"
                             " or --set mixup=0 --set cutmix=0.")
        source = open_source(self.data, classes=self.classes, class_map=self.class_map, splits=self.splits,
                             batch=recipe.batch, seed=recipe.seed)
        return Lesson(self, source, recipe, accumulate=accumulate, rank=rank, world=world, workers=workers,
                      device=device)


class Judged:
    """A validation split: its batches, and what a network makes of them.

    Attributes:
        shared: the processes have different batches; of a stream each has all of them.
        grid: rows and columns of an image.
    """

    def __init__(self, images: ImageTask, source: Source, prepared: Prepared, *, batch: int, seed: int, rank: int,
                 world: int, workers: int, device: torch.device) -> None:
        self.images, self.source, self.prepared, self.device = images, source, prepared, device
        self.shared, self.grid = source.val.stream is None, prepared.size
        self.fingerprint = fingerprint.of(source)
        self.remarks = [f"Evaluation: {prepared}", *source.remarks]
        self._validation = data.evaluation_loader(
            source.val, prepared, batch=batch, rank=rank, world=world, workers=workers, pin=is_gpu(device),
            subset=data.subset(source.val.size, images.limit, seed))

    def coords(self, answers: int) -> dict[str, Any]:
        """The coordinates of scores over so many images."""
        return {"classes": self.source.classes, "images": answers}

    def name(self, split: str, index: int) -> str:
        """The name of an image of "train" or "val"."""
        of = self.source.val if split == "val" else self.source.train
        assert of is not None
        return of.name(index)

    def validation(self) -> Iterator[Batch]:
        """Its batches, each image once over all processes."""
        return data.started(self._validation)

    def close(self) -> None:
        """End the processes that load."""
        data.end_workers()

    def judged(self, network: Network, batch: Batch) -> Tensor:
        """Numbers of top-1 and top-5 hits (of all classes where these are fewer than five), the sum of losses and the
        number of images, without padding. Raises UsageError at a label that the network has no output for."""
        logits, labels = network(self.prepared.normalised(batch.images, self.device)), batch.labels.to(self.device)
        if int(batch.labels.max()) >= logits.shape[1]:
            raise UsageError(f"An image has the label {int(batch.labels.max())}, and the model has {logits.shape[1]}"
                             " outputs: these data are not those it is meant for.")
        logits, labels = logits[labels >= 0], labels[labels >= 0]
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels.unsqueeze(1)  # [B, 5]
        loss = F.cross_entropy(logits, labels, reduction="sum").double()
        return torch.stack([ranked[:, 0].sum().double(), ranked.sum().double(), loss,
                            torch.tensor(len(labels), dtype=torch.float64, device=self.device)])


class Lesson(Judged):
    """Both splits: what `Judged` has, and training batches with their loss."""

    loads = True

    def __init__(self, images: ImageTask, source: Source, recipe: Recipe, *, accumulate: int, rank: int, world: int,
                 workers: int, device: torch.device) -> None:
        assert source.train is not None
        super().__init__(images, source, Prepared.by_recipe(recipe), batch=recipe.batch, seed=recipe.seed, rank=rank,
                         world=world, workers=workers, device=device)
        self.recipe = recipe
        self.training = TrainingLoader(
            source.train, recipe, accumulate=accumulate, rank=rank, world=world, workers=workers, pin=is_gpu(device),
            subset=data.subset(source.train.size, images.limit, recipe.seed))
        self.sizes = {"train": source.train.size, "val": source.val.size}
        self.kept = {"classes": source.classes, "class_names": source.names, "images": self.sizes}
        self.summary = f"{source.classes:,} classes, images of {recipe.img_size} pixels"
        self.mixup = Mixup(  # type: ignore[no-untyped-call]
            recipe.mixup, recipe.cutmix, prob=recipe.mixup_prob, switch_prob=recipe.mixup_switch,
            label_smoothing=recipe.smoothing, num_classes=source.classes) if recipe.mixes else None
        self.erase = RandomErasing(  # type: ignore[no-untyped-call]
            recipe.erasing, mode="pixel", device=str(device)) if recipe.erasing else None

    def changes(self, kept: Mapping[str, Any]) -> list[str]:
        """How the images differ from those that a checkpoint was made with."""
        sizes = differences(kept["images"], self.sizes)  # all that checkpoints of earlier versions know
        return fingerprint.changes(kept["data"], self.fingerprint) if kept.get("data") else sizes

    def build(self, arch: str, options: Mapping[str, Any]) -> nn.Module:
        """The model of an arch for these images."""
        return build(arch, options, self.recipe, self.source.classes)

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The loss of a network over a batch that is erased and mixed."""
        self._check(batch)
        images = self.prepared.normalised(batch.images, self.device)
        labels = batch.labels.to(self.device, non_blocking=True)
        if self.erase:
            images = self.erase(images)
        if self.mixup:
            images, target = self.mixup(images, labels)  # in which smoothing is
            return F.cross_entropy(network(images), target)
        return F.cross_entropy(network(images), labels, label_smoothing=self.recipe.smoothing)

    def _check(self, batch: Batch) -> None:
        low, high = int(batch.labels.min()), int(batch.labels.max())
        if low < 0:
            raise ResultsError("No training image could be read in many tries in a row: is the data still there? The"
                               " same command goes on from the last checkpoint.")
        if high >= self.source.classes:
            raise UsageError(f"A training image has the label {high}, and there are {self.source.classes} classes,"
                             " counted from 0. Check --classes and the class map.")


def build(arch: str, options: Mapping[str, Any], recipe: Recipe, classes: int) -> nn.Module:
    """The model of an arch; one of timm without a parameter for the size of images or for stochastic depth goes
    without."""
    keys: dict[str, Any] = {"img_size": recipe.img_size, "drop_path_rate": recipe.drop_path}
    if not arch.startswith(models.PEER):
        return models.create(arch, num_classes=classes, attn_options=dict(options), **keys)
    if options:
        raise UsageError(f"{arch} has no attention of softbench, so it takes no {', '.join(options)}.")
    for names in (("img_size", "drop_path_rate"), ("drop_path_rate",), ("img_size",)):
        try:
            return models.create(arch, num_classes=classes, **{name: keys[name] for name in names})
        except UsageError as error:
            if "does not take" not in str(error):
                raise
    return models.create(arch, num_classes=classes)
