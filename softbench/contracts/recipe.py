"""Recipes: how a model is trained, whatever it learns, as one frozen dataclass. No torch here.

The defaults are those of SOFT-Tiny on ImageNet, with their source beside each: paper is Lu et al., SOFT, NeurIPS 2021
(arXiv 2110.11945), section 4.1, code the defaults of the official `main.py`, yaml the official configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from softbench import options
from softbench.errors import UsageError
from softbench.options import option


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how a model learns, but the task, the model and the arithmetic.

    `lr` is for `lr_batch` samples a step and grows in proportion to `total_batch`; `min_lr` and `warmup_lr` do not. A
    task may have a subclass with keys of its own.
    """

    epochs: int = option(300, "epochs", low=1)  # paper
    total_batch: int = option(1024, "samples of one step, over all devices", low=1)  # paper
    batch: int = option(128, "samples that a device computes at once; a total batch is made of as many as it takes",
                        low=1)  # yaml

    lr: float = option(1e-3, "learning rate for lr_batch samples a step", low=0)  # paper, yaml
    lr_batch: int = option(1024, "samples a step that lr is meant for", low=1)  # code
    min_lr: float = option(5e-5, "learning rate that the cosine ends at", low=0)  # yaml
    warmup_lr: float = option(1e-6, "learning rate that the warm-up starts at", low=0)  # code
    warmup_epochs: int = option(10, "epochs of linear warm-up; the paper says 5", low=0)  # yaml
    schedule: Literal["epoch", "update"] = option("epoch", "when the learning rate moves")  # code
    weight_decay: float = option(0.05, "not of norms, biases, positions and the class token", low=0)  # paper
    eps: float = option(1e-8, "of AdamW", low=0)  # code
    clip: float = option(1.0, "norm that gradients are clipped to; 0 for none", low=0)  # yaml
    ema: float = option(0.99996, "decay of the averaged weights; 0 for none", low=0, high=1)  # code
    ema_warmup: bool = option(False, "let that decay rise from 0")  # code
    seed: int = option(42, "of the weights, the order of the samples and all augmentation",
                       low=0, high=2**31 - 1)  # code

    def warmup(self, epoch: int) -> int:
        """The length of the warm-up, where an epoch is so many updates, or one."""
        return self.warmup_epochs * epoch


@dataclass(frozen=True)
class SmallRecipe(Recipe):
    """The recipe of tasks that are learned in a few epochs: an epoch is too long a warm-up there."""

    warmup_share: float = option(0.1, "share of all updates that the learning rate rises in", low=0, high=1)

    def warmup(self, epoch: int) -> int:
        return super().warmup(epoch) or round(self.warmup_share * self.epochs * epoch)


# Our own: plain AdamW as recall is usually trained. A task changes it by its RECIPE.
SMALL = SmallRecipe(epochs=10, total_batch=64, batch=64, lr=1e-3, lr_batch=64, min_lr=0.0, warmup_epochs=0,
                    schedule="update", weight_decay=0.1, ema=0.0)

R = TypeVar("R", bound=Recipe)


def changed(recipe: R, values: Mapping[str, Any]) -> R:
    """Return the recipe with other values, as text or numbers.

    Raises:
        UsageError: an unknown key, a value of a wrong type or out of bounds, values that exclude each other.
    """
    parsed: R = options.parse(type(recipe), options.to_dict(recipe) | dict(values), "the recipe")
    if parsed.warmup_epochs >= parsed.epochs and "warmup_epochs" not in values:
        parsed = replace(parsed, warmup_epochs=parsed.epochs // 10)  # a short trial of a long recipe
    if parsed.warmup_epochs >= parsed.epochs > 1:
        raise UsageError(f"{parsed.warmup_epochs} epochs of warm-up leave none of {parsed.epochs} to train:"
                         " --set warmup_epochs=N with a smaller N.")
    return parsed


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two runs, one `name: before -> now` each."""
    return [f"{name}: {before.get(name)} -> {now.get(name)}"
            for name in dict.fromkeys([*before, *now]) if before.get(name) != now.get(name)]


def digest(value: Any) -> str:
    """Return eight characters for plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
