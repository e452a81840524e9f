"""Forgetting: associative recall where some keys get another value later, and the last one counts.

Rule: as `mqar`, with `updates` of the keys, drawn at random, standing once more after the pairs, each with a value that
it has not had. Each key is asked for once; an attention that adds up what it has seen of a key has two values for it.
Chance: one of the values that stand in the sequence, 1 / (pairs + updates).
Source: the forgetting variant of MQAR in the code of Arora et al., Zoology, ICLR 2024
(github.com/HazyResearch/zoology).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array, Samples, Sizes
from softbench.errors import UsageError
from softbench.options import option
from softbench.tasks import _recall, _splits

TITLE = "Recall of what changed"
SOURCE = "github.com/HazyResearch/zoology, after Arora et al., ICLR 2024"
INPUT = "tokens"
READOUT = "queries"
SCORES = ("accuracy",)
RECIPE: Mapping[str, Any] = {"epochs": 2}
QUICK: Mapping[str, Any] = {"tokens": 32, "pairs": 4, "updates": 2, "vocab": 32, "train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(50_000, "samples to learn from", low=1)
    tokens: int = option(64, "length of a sequence", low=6, high=1 << 16)
    pairs: int = option(8, "keys with a value, each asked for once", low=1)
    updates: int = option(4, "keys that get another value", low=1)
    vocab: int = option(128, "keys and values, half each", low=4, high=1 << 15)
    power: float = option(0.01, "a of the places at which keys are asked for, 1 for anywhere alike", low=0.001, high=1)
    filler: Literal["blank", "keys"] = option("blank", "what stands where nothing is asked for")


def open(settings: Settings, split: str) -> Samples:
    """A split as tokens, the values that are asked for, and where."""
    needed = 4 * settings.pairs + 2 * settings.updates
    if settings.updates > settings.pairs or needed > settings.tokens:
        raise UsageError(f"{settings.pairs} pairs and {settings.updates} updates take {needed} tokens, and no more"
                         f" updates than pairs: set tokens, {settings.tokens} here, or the others so.")
    _recall.check_vocab(settings.pairs + settings.updates, settings.vocab)
    tokens, labels, queries = _splits.drawn(settings, split, lambda rng, count: _draw(settings, rng, count))
    return Samples(tokens, labels, settings.vocab // 2, queries, settings.vocab)


def chance(settings: Settings) -> float:
    """One of the values that stand in the sequence."""
    return 1 / (settings.pairs + settings.updates)


def _draw(settings: Settings, rng: Generator, count: int) -> tuple[Array, Array, Array]:
    first, updates = settings.pairs, settings.updates
    keys, values = _recall.pairs(rng, count, first + updates, settings.vocab)
    changed = _splits.chosen(rng, count, first, updates)
    keys[:, first:] = np.take_along_axis(keys, changed, 1)
    context = np.stack([keys, values + settings.vocab // 2], 2).reshape(count, -1)
    last = values[:, :first].copy()
    np.put_along_axis(last, changed, values[:, first:], 1)
    return _recall.sequences(rng, context, keys[:, :first], last, settings.tokens, settings.vocab, settings.power,
                             settings.filler)
