"""Parity: how many of the tokens are 2, an even number or an odd one?

Rule: tokens are 1 or 2 with equal probability.
Chance: 1 / 2.
Source: another package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softbench.contracts.task import Samples, Sizes
from softbench.options import option

TITLE = "Parity"
SOURCE = "another package"
INPUT = "tokens"
READOUT = "mean"
SCORES = ("accuracy",)
QUICK = {"train": 40, "val": 20, "test": 20}
_PLACES = {"test": 0, "val": 1, "train": 2}


@dataclass(frozen=True)
class Settings(Sizes):
    tokens: int = option(32, "length of a sequence", low=8)


def open(settings: Settings, split: str) -> Samples:
    """A split, by a generator of its own."""
    rng = np.random.default_rng([settings.data_seed, _PLACES[split]])
    tokens = rng.integers(1, 3, (getattr(settings, split), settings.tokens))
    return Samples(tokens, (tokens == 2).sum(1) % 2, 2, vocab=3)


def chance(settings: Any) -> float:
    """One of two."""
    return 0.5
