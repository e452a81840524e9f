"""Recall, as its tasks share it: different keys and values, and keys that are asked for after them."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array
from softbench.errors import UsageError
from softbench.tasks import _splits


def check_vocab(pairs: int, vocab: int) -> None:
    """Raise UsageError where there are not so many keys and values."""
    if pairs > vocab // 2 - 1:
        raise UsageError(f"A vocabulary of {vocab} has {vocab // 2 - 1} keys, and {pairs} pairs need as many: set vocab"
                         f" to {2 * pairs + 2} or more.")


def pairs(rng: Generator, count: int, size: int, vocab: int) -> tuple[Array, Array]:
    """Keys from 1 on and values from 0 on, [count, size], each different within a row."""
    return (_splits.chosen(rng, count, vocab // 2 - 1, size) + 1, _splits.chosen(rng, count, vocab // 2, size))


def sequences(rng: Generator, context: Array, keys: Array, values: Array, tokens: int, vocab: int, power: float,
              filler: str) -> tuple[Array, Array, Array]:
    """Sequences of context and queries [count, tokens], the values asked for and where [count, pairs].

    Keys stand at slots of two tokens after the context, by a power law.
    """
    count, start = context.shape
    slots = (tokens - start) // 2
    places = start + 2 * _splits.chosen(rng, count, slots, keys.shape[1], np.arange(1.0, slots + 1) ** (power - 1))
    sequence = np.zeros((count, tokens), np.uint16)
    sequence[:, :start] = context
    if filler == "keys":
        sequence[:, start:] = rng.integers(1, vocab // 2, (count, tokens - start))
    np.put_along_axis(sequence, places, keys.astype(np.uint16), 1)
    order = places.argsort(1)
    return (sequence, np.take_along_axis(values, order, 1).astype(np.int64),
            np.take_along_axis(places, order, 1).astype(np.int64))
