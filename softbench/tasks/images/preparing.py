"""Preparing: how a picture becomes the numbers that a model is scored on, by a recipe or as timm's weights want it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, create_transform, resolve_data_config
from torch import Tensor, nn

from softbench.tasks.images.recipe import Recipe


@dataclass(frozen=True)
class Prepared:
    """The steps that a picture goes through; the defaults are those of all training here, whatever the arch.

    Attributes:
        size: rows and columns.
        crop: side of the crop over the side of the resized picture.
        mode: timm's word for the crop: of the "center", a "squash" of the whole, or with a "border" around it.
        mean, std: of red, green and blue, where white is 1.
    """

    size: tuple[int, int]
    crop: float
    interpolation: str = "bicubic"
    mode: str = "center"
    mean: tuple[float, ...] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, ...] = IMAGENET_DEFAULT_STD

    @classmethod
    def by_recipe(cls, recipe: Recipe) -> Self:
        """As training evaluates."""
        return cls((recipe.img_size, recipe.img_size), recipe.eval_crop)

    @classmethod
    def by_timm(cls, model: nn.Module) -> Self:
        """As timm evaluates the weights that it has for a model of this name and tag."""
        config: dict[str, Any] = resolve_data_config(model=model)  # type: ignore[no-untyped-call]
        return cls(tuple(config["input_size"][-2:]), config["crop_pct"], config["interpolation"], config["crop_mode"],
                   tuple(config["mean"]), tuple(config["std"]))

    def __str__(self) -> str:
        mean, std = (" ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return (f"{self.size[0]} x {self.size[1]} pixels, {self.interpolation}, {self.mode} crop {self.crop:g},"
                f" mean {mean}, std {std}")

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def transform(self) -> Any:
        """timm's transform from a picture to bytes [3, rows, cols]."""
        return create_transform(self.size, interpolation=self.interpolation, crop_pct=self.crop, crop_mode=self.mode,
                                mean=self.mean, normalize=False)

    def normalised(self, images: Tensor, device: torch.device) -> Tensor:
        """Bytes as normalised floats on a device, [B, 3, rows, cols]."""
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) * 255 for values in (self.mean, self.std))
        return images.to(device, non_blocking=True).float().sub_(mean).div_(std)
