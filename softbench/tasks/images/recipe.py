"""How a backbone is trained on images: the keys that augmentation adds to a recipe, and a row for each arch. No torch.

Sources, named beside each value:
    paper: Lu et al., SOFT, NeurIPS 2021 (arXiv 2110.11945), section 4.1, which leaves the rest to timm's defaults.
    code: the official code, defaults of its `main.py`.
    yaml: the official code, its configuration of that variant.
Where they differ, a row follows the configuration that the released weights were trained by. The one such place is the
warm-up: 5 epochs in the paper, 10 in every yaml (`--set warmup_epochs=5` is the paper's).
"""

from __future__ import annotations

from dataclasses import dataclass

from softbench.contracts import recipe
from softbench.contracts.recipe import changed, differences
from softbench.options import option

__all__ = ["DIGITS", "ROWS", "Recipe", "changed", "differences", "row"]


@dataclass(frozen=True)
class Recipe(recipe.Recipe):
    """Everything that decides what is learned, but the arch, the data and the arithmetic. The defaults are SOFT-Tiny's.
    """

    img_size: int = option(224, "side of the training images in pixels", low=4, high=8192)  # paper
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

    @property
    def mixes(self) -> bool:
        """True where images of a batch are mixed in pairs."""
        return self.mixup > 0 or self.cutmix > 0


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
