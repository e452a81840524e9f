"""Text: from which package of Python's standard library are these bytes?

Rule: the classes are `packages` of the standard library at hand, without their tests. Of each, a fifth of the files is
for the test split, a tenth for validation, the others to learn from, drawn from `data_seed`; a sample is `tokens` bytes
from a place drawn at random in a file, longer files more often, each class as often. So no two splits share a file. The
samples follow the version of Python, and so does their digest. With `data=DIR`, Long Range Arena's task: the folders
train/pos, train/neg, test/pos, test/neg of IMDb reviews, a .txt file each, cut or padded; a tenth of train is
validation.
Chance: 1 / packages. Counting bytes is above it, as in any text.
Source: softbench, in place of the byte-level reviews of Tay et al., Long Range Arena, ICLR 2021 (arXiv 2011.04006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array, Samples, Sizes
from softbench.errors import UsageError
from softbench.options import option
from softbench.tasks import _splits, _texts

TITLE = "Which package is this from"
SOURCE = "softbench, after Tay et al., ICLR 2021, arXiv 2011.04006"
INPUT = "bytes"
READOUT = "mean"
SCORES = ("accuracy",)
RECIPE: Mapping[str, Any] = {"epochs": 3}
QUICK: Mapping[str, Any] = {"tokens": 64, "train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(10_000, "samples to learn from", low=1)
    tokens: int = option(1_024, "bytes of a sample", low=16, high=1 << 16)
    packages: str = option(_texts.PACKAGES, "packages of the standard library, as in asyncio+email")
    data: str = option("", "folder of IMDb reviews; empty for the standard library")


def open(settings: Settings, split: str) -> Samples:
    """A split as bytes and the number of the class."""
    if settings.data:
        return _reviews(settings, split)
    classes = [_texts.files(settings, settings.tokens, name, split) for name in _names(settings)]
    texts, labels = _splits.drawn(settings, split, lambda rng, count: _draw(settings, classes, split, rng, count))
    return Samples(texts, labels, len(classes))


def chance(settings: Settings) -> float:
    """One of the classes."""
    return 0.5 if settings.data else 1 / len(_names(settings))


def _names(settings: Settings) -> list[str]:
    names = _texts.names(settings.packages)
    if len(names) < 2 or len(set(names)) < len(names):
        raise UsageError(f"packages must name two or more, each once, as in asyncio+email; not '{settings.packages}'.")
    return names


def _draw(settings: Settings, classes: Sequence[Sequence[bytes]], split: str, rng: Generator,
          count: int) -> tuple[Array, Array]:
    labels = rng.permutation(np.arange(count) % len(classes)).astype(np.int64)
    places = [_texts.place(rng, classes[label], settings.tokens) for label in labels]
    chosen = [classes[label][which] for label, (which, _) in zip(labels, places, strict=True)]
    return _texts.cut(chosen, [start for _, start in places], settings.tokens), labels


def _reviews(settings: Settings, split: str) -> Samples:
    folder = Path(settings.data) / ("test" if split == "test" else "train")
    reviews = [(file, label) for label, name in enumerate(("neg", "pos"))
               for file in sorted(folder.glob(f"{name}/*.txt"))]
    if len({label for _, label in reviews}) < 2:
        raise UsageError(f"'{folder}' holds no IMDb reviews: pos/ and neg/ with a .txt file each.")
    order = _splits.generator(settings, 3).permutation(len(reviews))
    tenth = len(reviews) // 10
    part = {"test": order, "val": order[:tenth], "train": order[tenth:]}[split][:getattr(settings, split)]
    held = [reviews[i][0].read_bytes().replace(b"\0", b" ") for i in part]
    labels = np.array([reviews[i][1] for i in part], np.int64)
    return Samples(_texts.cut(held, [0] * len(held), settings.tokens), labels, 2)
