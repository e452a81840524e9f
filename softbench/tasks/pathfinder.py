"""Pathfinder: do the two marked ends lie on one dashed path, or on two?

Rule: two paths of `contour` dashes each are drawn on a square of `side` pixels, then shorter ones that distract. Each
dash is 2 pixels long and about 1 wide, a pixel apart from the next; it turns from the one before by an angle t with
weight cos^2 t, and keeps a pixel away from all dashes but its neighbours. The first path begins near the centre, the
second 7/32 of the side from there. Distracting paths have a third as many dashes, and there are 20 divided by that of
them, as far as they find room. A disc marks one end of a path and, with equal probability, the other end of the same
path (label 1) or of the other one (label 0). Published: 32 pixels, 160,000 to learn from; contours of 6, 9 and 14 are
easy, intermediate and hard. Here lines are drawn with four samples a pixel. With `data=DIR` the official folders are
read, one that holds metadata/ and imgs/, such as curv_contour_length_14: a tenth of its pictures is for the test split,
a tenth for validation.
Chance: 1 / 2. In a trial of 16 pixels and 8 dashes softmax was still there after 1,500 steps.
Source: Linsley et al., NeurIPS 2018; Kim et al., ICLR 2020; with the settings of Tay et al., Long Range Arena, ICLR
2021 (arXiv 2011.04006).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array, Samples, Sizes
from softbench.errors import UsageError, text
from softbench.options import option
from softbench.tasks import _paths, _pictures, _splits

TITLE = "Pathfinder"
SOURCE = "Tay et al., ICLR 2021, arXiv 2011.04006"
INPUT = "numbers"
READOUT = "mean"
SCORES = ("accuracy",)
QUICK: Mapping[str, Any] = {"side": 16, "contour": 3, "train": 30, "val": 10, "test": 30}
_MARK = 1.5  # radius of a mark in pixels


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(5_000, "samples to learn from", low=1)
    side: int = option(16, "side of a picture in pixels; each is a token", low=12, high=128)
    contour: int = option(6, "dashes of a path whose ends are marked", low=3, high=32)
    data: str = option("", "folder of the official release; empty to generate")


def open(settings: Settings, split: str) -> Samples:
    """A split as sequences of one number a token, 0 to 255 as -1 to 1."""
    if settings.data:
        images, labels = _read(settings, split)
    else:
        images, labels = _splits.drawn(settings, split, lambda rng, count: _draw(settings, rng, count))
    return Samples((images.reshape(len(images), -1, 1) / 127.5 - 1).astype(np.float32), labels, 2)


def chance(settings: Settings) -> float:
    """One of two."""
    return 0.5


def _draw(settings: Settings, rng: Generator, count: int) -> tuple[Array, Array]:
    images = np.zeros((count, settings.side, settings.side), np.uint8)
    labels = rng.permutation(np.arange(count) % 2).astype(np.int64)
    for image, label in zip(images, labels, strict=True):
        image[...], _ = picture(settings, rng, int(label))
    return images, labels


def picture(settings: Settings, rng: Generator, label: int) -> tuple[Array, list[_paths.Path]]:
    """A picture and its paths, of which the first two have an end that is marked, or the first has two."""
    board = _paths.Board(settings.side, rng)
    apart = round(settings.side * 7 / 32)
    pair = next((pair for _ in range(_paths.TRIALS) if (pair := board.two(settings.contour, apart))), None)
    if pair is None:
        raise UsageError(f"Two paths of contour={settings.contour} dashes find no room on side={settings.side} pixels:"
                         " set side higher, or contour lower.")
    short = settings.contour // 3
    paths = [*pair, *(path for _ in range(20 // short) if (path := board.one(short)))]
    first = int(rng.integers(2))
    marks = [pair[first][0].start, pair[first if label else 1 - first][-1].end]
    return _paths.drawn(settings.side, paths, marks, _MARK), paths


def _read(settings: Settings, split: str) -> tuple[Array, Array]:
    """Pictures of the official release, which names them in metadata/ with their labels: text, called .npy."""
    folder = Path(settings.data)
    lines = []
    try:
        for file in sorted((folder / "metadata").glob("*.npy"), key=lambda file: (len(file.name), file.name)):
            lines += [line.split() for line in file.read_text().splitlines() if line]
        named = [(folder / line[0] / line[1], int(line[3])) for line in lines]
    except (OSError, ValueError, IndexError) as error:
        raise UsageError(f"Cannot read '{folder / 'metadata'}' as Pathfinder of Long Range Arena:"
                         f" {text(error)}.") from error
    if not named:
        raise UsageError(f"'{folder}' holds no metadata/ of Pathfinder: name one of its folders, such as"
                         " curv_contour_length_14.")
    order = _splits.generator(settings, 3).permutation(len(named))
    tenth = math.ceil(len(named) / 10)
    part = {"test": order[:tenth], "val": order[tenth:2 * tenth], "train": order[2 * tenth:]}[split]
    chosen = [named[i] for i in part[:getattr(settings, split)]]
    if not chosen:
        raise UsageError(f"'{folder}' holds {len(named)} pictures, which leave none for {split}.")
    images = [_pictures.grey(_pictures.picture(file)[None])[0, 0] for file, _ in chosen]
    return np.stack(images), np.array([label for _, label in chosen], np.int64)
