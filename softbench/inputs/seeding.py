"""Seeding: all randomness of training is a function of (seed, epoch, what is being computed), never of what ran before.

Each image of an epoch is augmented from a seed of its own, and each micro-batch (the images that one device computes at
once) draws its erasing, mixing and dropped paths from one of its own. So neither the number of workers nor of devices
nor an interruption changes what is drawn, and the random state of every process is known from the position alone.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

ORDER, IMAGE, MICRO_BATCH, WEIGHTS = range(4)  # what is being drawn


def derived(*parts: int) -> int:
    """A seed of 32 bits for these numbers, without relation to that of any others."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "little")


def reseed(*parts: int, cpu_only: bool = False) -> None:
    """Start Python's, numpy's and torch's generators anew from these numbers; with `cpu_only` no GPU's."""
    seed = derived(*parts)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - timm draws from it
    if cpu_only:
        torch.default_generator.manual_seed(seed)  # manual_seed would wake CUDA up in every worker
    else:
        torch.manual_seed(seed)


@contextmanager
def kept() -> Iterator[None]:
    """Give all generators back as they were, whatever the block draws."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
