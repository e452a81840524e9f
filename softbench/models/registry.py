"""Registers every arch with timm: `timm.create_model("soft_tiny")` works once `softbench.models` is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model

from softbench.models import checkpoints, variants
from softbench.models.pyramid import Pyramid

_CFG: dict[str, Any] = {
    "url": "", "num_classes": 1000, "input_size": (3, variants.IMAGE, variants.IMAGE), "pool_size": (7, 7),
    "fixed_input_size": False, "crop_pct": 0.875, "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD, "first_conv": "stages.0.patch_embed.proj.0", "classifier": "head",
    "paper_ids": "arXiv:2110.11945", "origin_url": "https://github.com/fudan-zvg/SOFT", "license": "MIT"}

_NAMES = {arch.replace("-", "_"): variants.parse(arch) for arch in variants.archs()}
default_cfgs = generate_default_cfgs({name: dict(_CFG) for name in _NAMES})  # timm looks it up by this name
__all__: list[str] = []  # which timm fills


def _entry(name: str, attention: str, variant: str) -> Callable[..., Pyramid]:
    def create(pretrained: bool = False, **kwargs: Any) -> Any:
        return build_model_with_cfg(
            partial(Pyramid, variant, attention), name, pretrained,
            pretrained_filter_fn=checkpoints.adapted,
            feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"The pyramid '{variant}' with the attention '{attention}' in stages 1 to 3."
    return create


def _register() -> None:
    module = sys.modules[__name__]
    for name, (attention, variant) in _NAMES.items():
        if not is_model(name):  # never take a name that timm has
            entry = _entry(name, attention, variant)
            setattr(module, name, entry)
            register_model(entry)


_register()
