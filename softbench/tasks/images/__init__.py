"""images: photographs of some classes, from folders, tars, a hub or noise, for whole backbones as published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softbench import options, parsing
from softbench.case import AttentionSpec
from softbench.errors import UsageError
from softbench.options import option
from softbench.tasks.images.recipe import Recipe, row

INPUT = "images"
LOADER = "its own"  # they are read as they are needed, not opened as arrays
__all__ = ["Model", "Recipe", "Settings", "whole"]


@dataclass(frozen=True)
class Settings:
    """The images: `data` as `softbench.tasks.images.sources` takes them."""

    data: str = option("digits", "a folder with train/ and val/, or as --data of train-imagenet")
    splits: str = option("train,validation", "names of the splits where the data are not a folder")
    class_map: str = option("", "file with the labels of the classes")
    classes: int = option(0, "number of classes; 0 for those of the data", low=0)
    limit: int = option(0, "images of each split, at most; 0 for all", low=0)


@dataclass(frozen=True)
class Model:
    """The backbone."""

    variant: str = option("tiny", "of the pyramid, as in the arch soft-tiny")


def whole(name: str, attention: AttentionSpec, model: Model, values: Mapping[str, Any]) -> tuple[str, Any, Recipe]:
    """The arch, the task as training sees it, and the recipe, which are of this task alone."""
    if attention.impl:
        raise UsageError(f"--attn: {name} is learned with the fastest implementation: leave out"
                         f" impl={attention.impl}.")
    settings = options.parse(Settings, values, f"task '{name}'")

    from softbench.models.variants import parse
    from softbench.tasks.images.lesson import ImageTask

    arch = f"{attention.name}-{model.variant}"
    task = ImageTask(settings.data, parsing.splits(settings.splits), settings.class_map, settings.classes or None,
                     settings.limit or None)
    return arch, task, row(*parse(arch), settings.data)
