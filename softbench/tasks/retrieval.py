"""Retrieval: two pieces of text, of one file or of two?

Rule: the files are those of Python's standard library that `text` has, divided as there. A sample is two pieces of
`tokens` / 2 bytes each, one after the other; with probability 1/2 both are from one file, and do not overlap, otherwise
from two files of the same package. Each package is as probable, and each of its files, long or short, so that neither
gives anything away. With `data=DIR`, Long Range Arena's task: the files new_aan_pairs.train.tsv, .eval.tsv and
.test.tsv, a label, two names and two texts a line, each text cut to half.
Chance: 1 / 2.
Source: softbench, in place of the paper pairs (ACL Anthology Network) of Tay et al., Long Range Arena, ICLR 2021 (arXiv
2011.04006), where two towers read the texts; here one model reads both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array, Samples, Sizes
from softbench.errors import UsageError, text
from softbench.options import option
from softbench.tasks import _splits, _texts

TITLE = "One file or two"
SOURCE = "softbench, after Tay et al., ICLR 2021, arXiv 2011.04006"
INPUT = "bytes"
READOUT = "mean"
SCORES = ("accuracy",)
RECIPE: Mapping[str, Any] = {"epochs": 3}
QUICK: Mapping[str, Any] = {"tokens": 64, "train": 300, "val": 100, "test": 200}
_NAMES = {"train": "train", "val": "eval", "test": "test"}


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(10_000, "samples to learn from", low=1)
    tokens: int = option(1_024, "bytes of a sample, half of them of each piece", low=16, high=1 << 16)
    packages: str = option(_texts.PACKAGES, "packages of the standard library, as in asyncio+email")
    data: str = option("", "folder of the pairs of papers; empty for the standard library")


def open(settings: Settings, split: str) -> Samples:
    """A split as bytes and 1 for one file, 0 for two."""
    if settings.tokens % 2:
        raise UsageError(f"Two pieces of one length need an even number of tokens, not {settings.tokens}.")
    if settings.data:
        return _papers(settings, split)
    packages = [held for name in _texts.names(settings.packages)
                if len(held := _texts.files(settings, settings.tokens, name, split)) > 1]
    if not packages:
        raise UsageError(f"None of the packages {settings.packages} has two files of {settings.tokens} bytes for"
                         f" {split}: name others with packages=A+B, or set tokens lower.")
    pieces, labels = _splits.drawn(settings, split, lambda rng, count: _draw(settings, packages, rng, count))
    return Samples(pieces, labels, 2)


def chance(settings: Settings) -> float:
    """One of two."""
    return 0.5


def _draw(settings: Settings, packages: Sequence[Sequence[bytes]], rng: Generator, count: int) -> tuple[Array, Array]:
    labels = rng.permutation(np.arange(count) % 2).astype(np.int64)
    half = settings.tokens // 2
    pieces: list[bytes] = []
    for label in labels:
        held = packages[int(rng.integers(len(packages)))]
        if label:
            file = held[int(rng.integers(len(held)))]
            first, second = sorted(map(int, rng.integers(len(file) - settings.tokens + 1, size=2)))
            pair = [file[first:first + half], file[second + half:second + settings.tokens]]
        else:
            pair = [held[i][(s := int(rng.integers(len(held[i]) - half + 1))):s + half]
                    for i in rng.choice(len(held), 2, replace=False)]
        pieces.append(b"".join(pair[i] for i in rng.permutation(2)))
    return _texts.cut(pieces, [0] * count, settings.tokens), labels


def _papers(settings: Settings, split: str) -> Samples:
    file = Path(settings.data) / f"new_aan_pairs.{_NAMES[split]}.tsv"
    half, rows, labels = settings.tokens // 2, [], []
    try:
        with file.open("rb") as lines:
            for line in lines:
                label, _, _, one, other = line.rstrip(b"\n").split(b"\t")
                labels.append(int(float(label)))
                rows.append(_texts.cut([one, other], [0, 0], half).reshape(-1))
                if len(rows) == getattr(settings, split):
                    break
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read '{file}' as pairs of Long Range Arena, a label, two names and two texts a line:"
                         f" {text(error)}.") from error
    if not rows:
        raise UsageError(f"'{file}' holds no sample.")
    return Samples(np.stack(rows), np.array(labels, np.int64), 2)
