"""Mnist1d: ten shapes in one dimension, shifted, stretched, sheared and in noise.

Rule: that of the package mnist1d with its published settings: 5,000 samples of 40 numbers, templates of 12 numbers
padded by 36 to 60, scaled, moved by up to 48, with correlated and independent noise, sheared, and resampled. Its seed
is 42 + `data_seed`, so that the default is the published set, divided anew. `length` is the number of tokens.
Chance: 1 / 10.
Source: Greydanus and Kobak, Scaling Down Deep Learning with MNIST-1D, ICML 2024 (arXiv 2011.14439); extra `data`. Its
page has 32 % for logistic regression, 68 % for an MLP, 91 % for a GRU and 94 % for a convolutional network, and no
attention.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from softbench.contracts.task import Array, Samples, Sizes
from softbench.options import option
from softbench.tasks import _pictures, _splits

TITLE = "MNIST-1D"
SOURCE = "Greydanus and Kobak, ICML 2024, arXiv 2011.14439"
INPUT = "numbers"
READOUT = "mean"
SCORES = ("accuracy",)
QUICK: Mapping[str, Any] = {"train": 300, "val": 100, "test": 200}


@dataclass(frozen=True)
class Settings(Sizes):
    train: int = option(3_500, "samples to learn from, at most those that are left", low=1)
    val: int = option(500, "samples by which settings are chosen", low=1)
    test: int = option(1_000, "samples that are scored once, at the end", low=1)
    length: int = option(40, "numbers of a sample", low=2, high=1 << 12)


def open(settings: Settings, split: str) -> Samples:
    """A split as sequences of one number a token."""
    numbers, labels = _made(settings.data_seed, settings.length)
    which = _splits.divided(settings, split, labels, numbers)
    return Samples(numbers[which, :, None], labels[which], 10)


def chance(settings: Settings) -> float:
    """One of ten."""
    return 0.1


@functools.lru_cache(maxsize=2)
def _made(seed: int, length: int) -> tuple[Array, Array]:
    package = _pictures.imported("mnist1d.data", "mnist1d", "data")
    args = package.get_dataset_args()
    args.seed, args.final_seq_length = args.seed + seed, length
    with _global_state_kept():
        made = package.make_dataset(args)
    return (np.concatenate([made["x"], made["x_test"]]).astype(np.float32),
            np.concatenate([made["y"], made["y_test"]]).astype(np.int64))


@contextmanager
def _global_state_kept() -> Iterator[None]:
    """The package draws from the global generators, which it seeds: they are given back as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
