"""Pieces of the files of Python's standard library, as bytes."""

from __future__ import annotations

import functools
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array, Sizes
from softbench.errors import UsageError
from softbench.tasks import _splits

PACKAGES = "asyncio,email,importlib,multiprocessing,unittest,xml"
_SHARES = {"test": (0.0, 0.2), "val": (0.2, 0.3), "train": (0.3, 1.0)}  # of the files of each package


def names(packages: str) -> list[str]:
    """The packages of a setting, joined by commas, or by + where a comma would begin another item of a list."""
    return [name.strip() for name in packages.replace("+", ",").split(",") if name.strip()]


def files(sizes: Sizes, tokens: int, package: str, split: str) -> list[bytes]:
    """The files of a package that a split may show, each of `tokens` bytes or more.

    Raises:
        UsageError: there are none.
    """
    folder = Path(sysconfig.get_path("stdlib")) / package
    held = _contents(folder, tokens) if package.isidentifier() else []
    low, high = (round(share * len(held)) for share in _SHARES[split])
    if low == high:
        raise UsageError(f"The package '{package}' of Python's standard library has {len(held)} files of"
                         f" {tokens} bytes here: name others with packages=A+B, or set tokens lower.")
    order = _splits.generator(sizes, 3).permutation(len(held))
    return [held[i] for i in order[low:high]]


def cut(texts: Sequence[bytes], starts: Sequence[int], tokens: int) -> Array:
    """So many bytes of each text from its start on, padded with 0."""
    rows = np.zeros((len(texts), tokens), np.uint8)
    for row, (held, start) in enumerate(zip(texts, starts, strict=True)):
        piece = np.frombuffer(held[start:start + tokens], np.uint8)
        rows[row, :len(piece)] = piece
    return rows


def place(rng: Generator, held: Sequence[bytes], tokens: int) -> tuple[int, int]:
    """One of these texts and a place in it, each place as probable."""
    room = np.array([len(one) - tokens + 1 for one in held])
    which = int(rng.choice(len(held), p=room / room.sum()))
    return which, int(rng.integers(room[which]))


@functools.cache
def _contents(folder: Path, least: int) -> list[bytes]:
    """The contents of its Python files of that size, without those of its tests."""
    own = [file for file in sorted(folder.rglob("*.py"))
             if not {"test", "tests", "idle_test"} & set(file.relative_to(folder).parts)]
    held = [file.read_bytes().replace(b"\0", b" ") for file in own]
    return [text for text in dict.fromkeys(held) if len(text) >= least]
