"""Recipes: how a backbone is trained, as one frozen dataclass with a row for each arch. No torch here.

Sources, named beside each value:
    paper: Lu et al., SOFT, NeurIPS 2021 (arXiv 2110.11945), section 4.1, which leaves the rest to timm's defaults.
    code: the official code, defaults of its `main.py`.
    yaml: the official code, its configuration of that variant.
Where they differ, a row follows the configuration that the released weights were trained by. The one such place is the
warm-up: 5 epochs in the paper, 10 in every yaml (`--set warmup_epochs=5` is the paper's).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from softbench import options as opts
from softbench.errors import UsageError
from softbench.options import option


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is learned, but the arch, the data and the arithmetic. The defaults are SOFT-Tiny's.

    `lr` is for `lr_batch` images a step and grows in proportion to `total_batch`; `min_lr` and `warmup_lr` do not.
    """

    epochs: int = option(300, "epochs", low=1)  # paper
    total_batch: int = option(1024, "images of one step, over all devices", low=1)  # paper
    batch: int = option(128, "images that a device computes at once; a total batch is made of as many as it takes",
                        low=1)  # yaml
    img_size: int = option(224, "side of the training images in pixels", low=4, high=8192)  # paper

    lr: float = option(1e-3, "learning rate for lr_batch images a step", low=0)  # paper, yaml
    lr_batch: int = option(1024, "images a step that lr is meant for", low=1)  # code
    min_lr: float = option(5e-5, "learning rate that the cosine ends at", low=0)  # yaml
    warmup_lr: float = option(1e-6, "learning rate that the warm-up starts at", low=0)  # code
    warmup_epochs: int = option(10, "epochs of linear warm-up; the paper says 5", low=0)  # yaml
    schedule: Literal["epoch", "update"] = option("epoch", "when the learning rate moves")  # code
    weight_decay: float = option(0.05, "not of norms, biases, positions and the class token", low=0)  # paper
    eps: float = option(1e-8, "of AdamW", low=0)  # code
    clip: float = option(1.0, "norm that gradients are clipped to; 0 for none", low=0)  # yaml
    ema: float = option(0.99996, "decay of the averaged weights; 0 for none", low=0, high=1)  # code
    ema_warmup: bool = option(False, "let that decay rise from 0")  # code

    smoothing: float = option(0.1, "label smoothing", low=0, high=1)  # paper, code
    mixup: float = option(0.8, "alpha of mixup; 0 for none", low=0)  # code
    cutmix: float = option(1.0, "alpha of cutmix; 0 for none", low=0)  # code
    mixup_prob: float = option(1.0, "share of the batches that are mixed", low=0, high=1)  # code
    mixup_switch: float = option(0.5, "share of cutmix among these", low=0, high=1)  # code
    augment: str = option("rand-m9-mstd0.5-inc1", "timm's RandAugment string; empty for none")  # code
    color_jitter: float = option(0.4, "colour jitter; timm leaves it out beside RandAugment", low=0)  # code
    erasing: float = option(0.25, "probability of random erasing, of one patch by noise", low=0, high=1)  # code
    hflip: float = option(0.5, "probability of a horizontal flip", low=0, high=1)  # paper
    crop_scale: float = option(0.08, "smallest share of the image that a random crop keeps", low=0, high=1)  # code
    crop_ratio: float = option(0.75, "smallest aspect ratio of a random crop", low=0.01, high=1)  # code
    drop_path: float = option(0.1, "stochastic depth of the last block", low=0, high=0.99)  # code
    eval_crop: float = option(0.875, "side of the centre crop over the side of the resized image, 224 of 256",
                              low=0.01, high=1)  # paper
    seed: int = option(42, "of the weights, the order of the images and all augmentation",
                       low=0, high=2**31 - 1)  # code


# By variant; `soft-norm` rows come first. A model of timm, and `small-d20`, train as tiny does.
ROWS: dict[str, Recipe] = {
    "tiny": Recipe(),  # yaml
    "small": Recipe(),  # yaml
    "medium": Recipe(lr=3.5e-4, batch=32),  # yaml
    "large": Recipe(lr=3.3e-4, batch=32),  # yaml
    "huge": Recipe(lr=2.7e-4, batch=32),  # yaml
    "soft_norm medium": Recipe(lr=4e-4, batch=32),  # yaml of the model with symmetric normalisation
}

# Our own, found by trial on the digits themselves: a demonstration, nothing published. Digits have a left and a right.
DIGITS = Recipe(
    epochs=14, total_batch=64, batch=64, img_size=32, lr=1e-3, lr_batch=64, min_lr=1e-5, warmup_lr=1e-5,
    warmup_epochs=1, schedule="update", ema=0.99, ema_warmup=True, mixup=0.0, cutmix=0.0, augment="", color_jitter=0.0,
    erasing=0.0, hflip=0.0, crop_scale=0.7, crop_ratio=0.9, drop_path=0.0, eval_crop=1.0)


def row(attention: str, variant: str, data: str) -> Recipe:
    """The recipe for a variant ("" for a model of timm) with an attention, on data as the command names it."""
    if data == "digits":
        return DIGITS
    return ROWS.get(f"{attention} {variant}") or ROWS.get(variant) or ROWS["tiny"]


def changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values, as text or numbers.

    Raises:
        UsageError: an unknown key, a value of a wrong type or out of bounds, values that exclude each other.
    """
    parsed = opts.parse(Recipe, opts.to_dict(recipe) | dict(values), "the recipe")
    if parsed.warmup_epochs >= parsed.epochs and "warmup_epochs" not in values:
        parsed = replace(parsed, warmup_epochs=parsed.epochs // 10)  # a short trial of a long recipe
    if parsed.warmup_epochs >= parsed.epochs > 1:
        raise UsageError(f"{parsed.warmup_epochs} epochs of warm-up leave none of {parsed.epochs} to train:"
                         " --set warmup_epochs=N with a smaller N.")
    return parsed


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs, one `name: before -> now` each."""
    return [f"{name}: {before.get(name)} -> {now.get(name)}"
            for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]
