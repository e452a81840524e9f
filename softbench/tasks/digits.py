"""Digits: the 1,797 small pictures of handwritten digits that scikit-learn ships.

Rule: 8 x 8 pixels of 17 shades, stored as 0 to 255; `patch` pixels a side are a token. Pictures that occur twice are
taken once; the order is drawn from `data_seed`, each digit alike in all splits.
Chance: 1 / 10.
Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, in scikit-learn (extra `images`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softbench.contracts.task import Samples, Sizes
from softbench.options import option
from softbench.tasks import _pictures, _splits

TITLE = "Digits of 8 x 8 pixels"
SOURCE = "scikit-learn, after Alpaydin and Kaynak, 1998"
INPUT = "image"
READOUT = "mean"
SCORES = ("accuracy",)
QUICK: Mapping[str, Any] = {"train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(2_000, "samples to learn from, at most those that are left", low=1)
    val: int = option(300, "samples by which settings are chosen", low=1)
    test: int = option(400, "samples that are scored once, at the end", low=1)
    patch: int = option(1, "side of a token in pixels, 1, 2, 4 or 8", low=1, high=8)


def open(settings: Settings, split: str) -> Samples:
    """A split as images of one channel."""
    images, labels = _pictures.digits()
    which = _splits.divided(settings, split, labels, images)
    return Samples(images[which], labels[which], 10, patch=_pictures.fitting(settings.patch, 8))


def chance(settings: Settings) -> float:
    """One of ten."""
    return 0.1
