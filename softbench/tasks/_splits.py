"""Splits that share no sample: of samples that are drawn, and of those that are there.

Each split has a generator of its own, seeded by the setting `data_seed` and the split. The test split is drawn first,
so that more samples to learn from change neither of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array, Sizes
from softbench.errors import UsageError

Draw = Callable[[Generator, int], tuple[Array, ...]]
ORDER = ("test", "val", "train")
_AT_ONCE = 4096


def drawn(sizes: Sizes, split: str, draw: Draw) -> tuple[Array, ...]:
    """The arrays of a split, of which the first holds the inputs: no two samples of any split have the same.

    Raises:
        UsageError: there are not so many different samples.
    """
    taken: set[bytes] = set()
    for place, name in enumerate(ORDER):
        arrays = _fresh(generator(sizes, place), getattr(sizes, name), draw, taken)
        if name == split:
            return arrays
    raise UsageError(f"A task has the splits {', '.join(ORDER)}, not '{split}'.")


def generator(sizes: Sizes, *place: int) -> Generator:
    """A generator of its own for each place."""
    return np.random.default_rng([sizes.data_seed, *place])


def divided(sizes: Sizes, split: str, labels: Array, inputs: Array) -> Array:
    """The numbers of the samples of a split among those that are there, each label alike in all; the train split has
    those that are left, at most `train`. Of samples with the same input one takes part.

    Raises:
        UsageError: there are not so many.
    """
    once = {row.tobytes(): i for i, row in reversed(list(enumerate(inputs)))}
    order = generator(sizes, len(ORDER)).permutation(np.sort(list(once.values())))
    order = order[_in_turn(labels[order])]
    start = 0
    for name in ORDER:
        stop = start + getattr(sizes, name)
        if name == split:
            break
        start = stop
    if start >= len(order) or (split != "train" and stop > len(order)):
        raise UsageError(f"There are {len(order):,} samples: test={sizes.test} and val={sizes.val} leave none to learn"
                         " from. Set them lower.")
    return order[start:stop]


def _in_turn(labels: Array) -> Array:
    """An order in which each label takes its turn as often as its number allows."""
    rank = np.empty(len(labels))
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        rank[mine] = (np.arange(len(mine)) + 0.5) / len(mine)
    return rank.argsort(kind="stable")


def _fresh(rng: Generator, count: int, draw: Draw, taken: set[bytes]) -> tuple[Array, ...]:
    """So many samples with inputs that are not taken, which they are then."""
    parts: list[tuple[Array, ...]] = []
    missing, barren = count, 0
    while missing:
        arrays = draw(rng, size := min(missing << barren, _AT_ONCE))
        new: list[int] = []
        for i, row in enumerate(arrays[0]):
            if len(new) < missing and (key := row.tobytes()) not in taken:
                taken.add(key)
                new.append(i)
        barren = 0 if new else barren + 1
        if barren and size == _AT_ONCE:  # fewer that are all taken may be bad luck
            raise UsageError(f"There are no more than {len(taken):,} different samples with these settings: set train,"
                             " val and test lower, or make the task larger.")
        parts.append(tuple(array[new] for array in arrays))
        missing -= len(new)
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def chosen(rng: Generator, count: int, among: int, size: int, weights: Sequence[float] | Array | None = None) -> Array:
    """For each of `count` samples, `size` different numbers below `among` in random order, each taken next with a
    probability that is proportional to its weight."""
    scores = rng.gumbel(size=(count, among))
    return np.argsort(-(scores if weights is None else scores + np.log(weights)), axis=1)[:, :size]
