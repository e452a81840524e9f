"""Selective-copy: a few tokens among blanks, to be repeated in their order.

Rule: `size` tokens of the vocabulary, drawn with replacement, stand in order at places drawn from the first `tokens` -
`size`, among blanks; at each of the last `size` positions, which hold a mark, the next of them is asked for. Where they
stand differs from sample to sample, so that no fixed shift copies them.
Chance: one of the tokens that are to be copied, 1 / size + (1 - 1 / size) / vocab, as some of them are the same.
Source: Gu and Dao, Mamba, 2023 (arXiv 2312.00752), after Jing et al., Gated Orthogonal Recurrent Units, 2019; published
with 4,096 tokens, 16 of them to copy, from a vocabulary of 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array, Samples, Sizes
from softbench.errors import UsageError
from softbench.options import option
from softbench.tasks import _splits

TITLE = "Selective copying"
SOURCE = "Gu and Dao, 2023, arXiv 2312.00752"
INPUT = "tokens"
READOUT = "queries"
SCORES = ("accuracy",)
RECIPE: Mapping[str, Any] = {"epochs": 2}
QUICK: Mapping[str, Any] = {"tokens": 24, "size": 4, "vocab": 8, "train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(50_000, "samples to learn from", low=1)
    tokens: int = option(64, "length of a sequence", low=4, high=1 << 16)
    size: int = option(8, "tokens to copy", low=1)
    vocab: int = option(16, "different tokens to copy", low=2, high=1 << 15)


def open(settings: Settings, split: str) -> Samples:
    """A split as tokens, those to be repeated, and where."""
    if 2 * settings.size > settings.tokens:
        raise UsageError(f"{settings.size} tokens and as many to repeat them at are more than {settings.tokens}: set"
                         " tokens higher, or size lower.")
    tokens, labels = _splits.drawn(settings, split, lambda rng, count: _draw(settings, rng, count))
    queries = np.broadcast_to(np.arange(settings.tokens - settings.size, settings.tokens), labels.shape)
    return Samples(tokens, labels, settings.vocab, np.ascontiguousarray(queries), settings.vocab + 2)


def chance(settings: Settings) -> float:
    """One of the tokens that are to be copied."""
    return 1 / settings.size + (1 - 1 / settings.size) / settings.vocab


def _draw(settings: Settings, rng: Generator, count: int) -> tuple[Array, Array]:
    tokens, size, vocab = settings.tokens, settings.size, settings.vocab
    labels = rng.integers(0, vocab, (count, size))
    places = np.sort(_splits.chosen(rng, count, tokens - size, size), 1)
    sequence = np.zeros((count, tokens), np.uint16)
    sequence[:, -size:] = vocab + 1
    np.put_along_axis(sequence, places, (labels + 1).astype(np.uint16), 1)
    return sequence, labels
