"""Weights to be scored on images: ours, official ones, or those of a model of timm, prepared for as they want it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softbench import models, options
from softbench.case import ModelSpec
from softbench.errors import UsageError
from softbench.models import checkpoints
from softbench.models.checkpoints import Trained
from softbench.tasks.images.lesson import ImageTask, Judged
from softbench.tasks.images.preparing import Prepared
from softbench.tasks.images.recipe import Recipe, row
from softbench.tasks.images.sources import open_source

_HEADS = ("head.weight", "head.bias", "fc.weight", "classifier.weight", "head.fc.weight")


@dataclass(frozen=True)
class Weights:
    """Weights in a file, and how they are to be scored.

    Attributes:
        arch: "" takes that of a checkpoint of ours.
        weights: "best" takes what scored best in training, or what is there; "ema", "model".
        img_size, crop, interpolation, mean, std: see `Prepared`; what is not given is that of training here, or timm's
            own for its weights.
    """

    checkpoint: Path
    images: ImageTask
    arch: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = "best"
    img_size: int | None = None
    crop: float | None = None
    interpolation: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def open(self, loaded: Mapping[str, Any], trained: Trained | None, best: str, *, batch: int, rank: int, world: int,
             workers: int, device: torch.device) -> tuple[nn.Module, ModelSpec, Judged, dict[str, Any]]:
        """The model with the weights of a checkpoint, its name, the validation split, and what else records say.

        Args:
            trained: what the checkpoint says of itself, where it is of a run of ours.
            best: the key of those weights that scored best in training; "" where nothing says it.
        Raises:
            UsageError: it does not fit the arch or the data.
        """
        arch, attention, recipe = self._subject(trained)
        model, kind = self._model(loaded, arch, attention, recipe, best)
        by_timm = trained is None and arch.startswith(models.PEER)
        own = Prepared.by_timm(model) if by_timm else Prepared.by_recipe(recipe)
        changes: dict[str, Any] = {"size": (self.img_size, self.img_size) if self.img_size else None, "crop": self.crop,
                                 "interpolation": self.interpolation, "mean": self.mean, "std": self.std}
        prepared = replace(own, **{key: value for key, value in changes.items() if value})
        images = self.images
        classes = int(model.num_classes)  # type: ignore[arg-type]  # as timm's models all have
        source = open_source(images.data, training=False, classes=classes, class_map=images.class_map,
                             splits=images.splits, batch=batch, names=trained.names if trained else None)
        judged = Judged(images, source, prepared, batch=batch, seed=recipe.seed, rank=rank, world=world,
                        workers=workers, device=device)
        detail = {"eval_crop": prepared.crop, "prepared": prepared.as_dict()}
        return model, ModelSpec(arch, attention), judged, {"weights": kind, "seed": recipe.seed, "detail": detail}

    def _subject(self, trained: Trained | None) -> tuple[str, dict[str, Any], Recipe]:
        """The arch, its options and the recipe of a checkpoint, which says them itself where it is ours."""
        if trained is None:
            if not self.arch:
                raise UsageError(f"{self.checkpoint} does not say what it is a checkpoint of: give --arch.")
            attention, variant = ("", "") if self.arch.startswith(models.PEER) else models.parse(self.arch)
            return self.arch, self.options, row(attention, variant, self.images.data)
        if other := next((key for key in trained.run if key.startswith("task.")), ""):
            raise UsageError(f"{self.checkpoint} has learned {trained.run.get('data')}, whose setting {other} it keeps,"
                             " and not images: it cannot be scored on them.")
        if self.arch and ModelSpec(self.arch).display_name != trained.run["arch"]:
            raise UsageError(f"{self.checkpoint} is a checkpoint of {trained.run['arch']}, not of {self.arch}: leave"
                             " out --arch.")
        if self.options and self.options != trained.options:
            raise UsageError(f"{self.checkpoint} was trained with the attention options {trained.options}, which stay:"
                             " leave out --set.")
        keys = {key: trained.run[key] for key in options.to_dict(Recipe()) if key in trained.run}
        arch = self.arch or trained.registered(f"give --arch {trained.arch}")
        return arch, trained.options, options.parse(Recipe, keys, f"{self.checkpoint}")

    def _model(self, loaded: Mapping[str, Any], arch: str, attention: dict[str, Any], recipe: Recipe, best: str
               ) -> tuple[nn.Module, str]:
        """The model with the weights that are asked for, and which these are."""
        averaged = self.weights != "model" and (best if self.weights == "best" and best else "state_dict_ema"
                                                ) == "state_dict_ema"
        there = any(key in loaded for key in ("state_dict_ema", "model_ema"))
        if self.weights == "ema" and not there:
            raise UsageError(f"{self.checkpoint} holds no averaged weights: leave out --weights.")
        weights = checkpoints.unwrapped(loaded, ema=averaged)
        official = checkpoints.is_official(weights)
        classes = next((len(weights[name]) for name in _HEADS if name in weights and weights[name].dim()), None)
        if classes is None:
            raise UsageError(f"{self.checkpoint} holds no classifier: it cannot be scored.")
        kind = "official" if official else "ema" if averaged and there else "model"
        if not arch.startswith(models.PEER):
            more: dict[str, Any] = {"official": True} if official else {"img_size": recipe.img_size}
            make = partial(models.create, arch, num_classes=classes, attn_options=attention, **more)
            return checkpoints.pyramid(make, weights, self.checkpoint), kind
        model = _peer(arch, classes, self.img_size)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UsageError(f"{self.checkpoint} does not fit {arch}: {reason}") from error
        return model, kind


def _peer(arch: str, classes: int, img_size: int | None) -> nn.Module:
    """A model of timm, for images of a size where it is built for one."""
    if img_size:
        try:
            return models.create(arch, num_classes=classes, img_size=img_size)
        except UsageError as error:
            if "does not take" not in str(error):
                raise
    return models.create(arch, num_classes=classes)
