"""Needle: one marked token among many, which is asked for at the end.

Rule: a sequence of `tokens`, drawn from the vocabulary with replacement, in which a mark stands at one place, drawn
with equal probability, in front of the token that is asked for; the last position holds a question mark, where it is
read. All else is hay of the same kind, so that the tokens without their order say nothing. N is the knob: 64 to 4,096.
Chance: 1 / vocab.
Source: softbench, in the manner of the needle in a haystack (Kamradt, 2023) and of the induction heads of Gu and Dao,
Mamba, 2023 (arXiv 2312.00752).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array, Samples, Sizes
from softbench.options import option
from softbench.tasks import _splits

TITLE = "Needle in a sequence"
SOURCE = "softbench, after Kamradt, 2023, and Gu and Dao, 2023, arXiv 2312.00752"
INPUT = "tokens"
READOUT = "queries"
SCORES = ("accuracy",)
RECIPE: Mapping[str, Any] = {"epochs": 3}
QUICK: Mapping[str, Any] = {"tokens": 24, "vocab": 8, "train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(20_000, "samples to learn from", low=1)
    tokens: int = option(256, "length of a sequence", low=4, high=1 << 16)
    vocab: int = option(16, "different tokens, hay and needle alike", low=2, high=1 << 15)


def open(settings: Settings, split: str) -> Samples:
    """A split as tokens, the marked ones, and the last position."""
    tokens, labels = _splits.drawn(settings, split, lambda rng, count: _draw(settings, rng, count))
    return Samples(tokens, labels, settings.vocab, np.full(labels.shape, settings.tokens - 1), settings.vocab + 3)


def chance(settings: Settings) -> float:
    """One of the vocabulary."""
    return 1 / settings.vocab


def _draw(settings: Settings, rng: Generator, count: int) -> tuple[Array, Array]:
    tokens, vocab = settings.tokens, settings.vocab
    sequence = rng.integers(1, vocab + 1, (count, tokens)).astype(np.uint16)
    rows, places = np.arange(count), rng.integers(0, tokens - 2, count)
    labels = sequence[rows, places + 1].astype(np.int64) - 1
    sequence[rows, places] = vocab + 1
    sequence[:, -1] = vocab + 2
    return sequence, labels[:, None]
