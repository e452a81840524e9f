"""Pointer: a grid of handwritten digits, of which the first names the one to read. Recall for vision, on real pixels.

Rule: `grid` x `grid` of scikit-learn's digits, 8 x 8 pixels each, drawn with replacement. The digit in the first cell,
d, names the cell to read: the d-th of those after it in row-major order, from 0; where there are fewer cells than ten,
only digits that name one are drawn there. The label is the digit that is read, drawn with equal probability. The splits
share no sample, nor any picture of a digit. `patch` pixels a side are a token: 4 of them make 2 x 2 tokens of a digit.
Chance: 1 / 10.
Source: softbench, after Zhang et al., Pointer Value Retrieval, 2021 (arXiv 2107.12580); digits as in the task `digits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array, Samples, Sizes
from softbench.options import option
from softbench.tasks import _pictures, _splits

TITLE = "A digit that points at another"
SOURCE = "softbench, after Zhang et al., 2021, arXiv 2107.12580"
INPUT = "image"
READOUT = "mean"
SCORES = ("accuracy",)
RECIPE: Mapping[str, Any] = {"epochs": 2}
QUICK: Mapping[str, Any] = {"grid": 2, "train": 300, "val": 100, "test": 200}
_SIDE = 8
_SHARES = {"test": (0.0, 0.2), "val": (0.2, 0.3), "train": (0.3, 1.0)}  # of the pictures of each digit


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(50_000, "samples to learn from", low=1)
    grid: int = option(3, "digits a side", low=2, high=64)
    patch: int = option(4, "side of a token in pixels, 1, 2, 4 or 8", low=1, high=8)


def open(settings: Settings, split: str) -> Samples:
    """A split as images of one channel."""
    images, labels = _splits.drawn(settings, split, lambda rng, count: _draw(settings, split, rng, count))
    return Samples(images, labels, 10, patch=_pictures.fitting(settings.patch, _SIDE))


def chance(settings: Settings) -> float:
    """One of ten."""
    return 0.1


def _draw(settings: Settings, split: str, rng: Generator, count: int) -> tuple[Array, Array]:
    """Grids of digits, each a picture of those that the split may show."""
    side = settings.grid
    digits = rng.integers(0, 10, (count, side * side))
    digits[:, 0] = rng.integers(0, min(10, side * side - 1), count)
    pictures = _of_each_digit(settings, split)
    starts = np.cumsum([0, *map(len, pictures)])[:-1]
    which = starts[digits] + (rng.random(digits.shape) * np.array(list(map(len, pictures)))[digits]).astype(np.int64)
    cells = np.concatenate(pictures)[which].reshape(count, side, side, _SIDE, _SIDE)
    images = cells.transpose(0, 1, 3, 2, 4).reshape(count, 1, side * _SIDE, side * _SIDE)
    return np.ascontiguousarray(images), digits[np.arange(count), digits[:, 0] + 1]


def _of_each_digit(settings: Settings, split: str) -> list[Array]:
    """The pictures of 0 to 9 that a split may show."""
    images, labels = _pictures.digits()
    order = _splits.generator(settings, 3).permutation(len(labels))
    pictures = []
    for digit in range(10):
        mine = order[labels[order] == digit]
        low, high = (round(share * len(mine)) for share in _SHARES[split])
        pictures.append(images[mine[low:high], 0])
    return pictures
