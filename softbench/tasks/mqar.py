"""MQAR: multi-query associative recall. Keys and their values, then keys again: what were their values?

Rule: the vocabulary has keys 1 to V/2 - 1 and values V/2 to V - 1. A sequence of `tokens` begins with `pairs` of a key
and its value, keys and values each different within it. In the rest, slots of two tokens long, each key stands once, at
slot g drawn without replacement with probability ~ g^(a - 1), a = 0.01, which is mostly early; the second half of a
slot and slots without a key are blank (`filler=keys`: keys at random, which nobody asks for). At each key's second
place its value is asked for. No value stands there, so that an attention which sees both ways finds it among the pairs
alone. The published task draws fillers from the whole vocabulary, and has 100,000 samples to learn from and 3,000 to
test.
Chance: one of the values that stand in the sequence, 1 / pairs; bare guessing would be 2 / V.
Source: Arora et al., Zoology: Measuring and Improving Recall in Efficient Language Models, ICLR 2024 (arXiv
2312.04927).
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

TITLE = "Associative recall (MQAR)"
SOURCE = "Arora et al., ICLR 2024, arXiv 2312.04927"
INPUT = "tokens"
READOUT = "queries"
SCORES = ("accuracy",)
RECIPE: Mapping[str, Any] = {"epochs": 2}
QUICK: Mapping[str, Any] = {"tokens": 32, "pairs": 4, "vocab": 32, "train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(50_000, "samples to learn from", low=1)
    tokens: int = option(64, "length of a sequence", low=4, high=1 << 16)
    pairs: int = option(8, "keys with a value, each asked for once", low=1)
    vocab: int = option(128, "keys and values, half each", low=4, high=1 << 15)
    power: float = option(0.01, "a of the places at which keys are asked for, 1 for anywhere alike", low=0.001, high=1)
    filler: Literal["blank", "keys"] = option("blank", "what stands where nothing is asked for")


def open(settings: Settings, split: str) -> Samples:
    """A split as tokens, the values that are asked for, and where."""
    if 4 * settings.pairs > settings.tokens:
        raise UsageError(f"{settings.pairs} pairs and as many queries take {4 * settings.pairs} tokens: set tokens to"
                         f" as many, not {settings.tokens}, or pairs lower.")
    _recall.check_vocab(settings.pairs, settings.vocab)
    tokens, labels, queries = _splits.drawn(settings, split, lambda rng, count: _draw(settings, rng, count))
    return Samples(tokens, labels, settings.vocab // 2, queries, settings.vocab)


def chance(settings: Settings) -> float:
    """One of the values that stand in the sequence."""
    return 1 / settings.pairs


def _draw(settings: Settings, rng: Generator, count: int) -> tuple[Array, Array, Array]:
    keys, values = _recall.pairs(rng, count, settings.pairs, settings.vocab)
    context = np.stack([keys, values + settings.vocab // 2], 2).reshape(count, -1)
    return _recall.sequences(rng, context, keys, values, settings.tokens, settings.vocab, settings.power,
                             settings.filler)
