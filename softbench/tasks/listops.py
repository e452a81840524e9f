"""ListOps: nested operations on lists of digits, of which the value is asked for.

Rule: a node is a digit with probability 3/4, or at depth 10; otherwise an operator of MIN, MAX, MED (the median,
rounded down) and SM (the sum modulo 10) with 2 to 10 nodes below it. Those of more than `min_length` and fewer than
`max_length` tokens are kept, an operator and its closing bracket being a token each; shorter ones are padded.
Published: 500 to 2,000 tokens, 96,000 to learn from, 2,000 and 2,000; the default here is a small version. With
`data=DIR` the files of the official release, basic_train.tsv, basic_val.tsv and basic_test.tsv, are read instead, whose
samples need max_length=2000.
Chance: 1 / 10. A rule that looks at the first operator alone reaches 34 %, as MAX gives 9 and MIN gives 0 mostly. In a
trial with 64 tokens both softmax and linear stopped there (31 % after 3,000 steps).
Source: Nangia and Bowman, ListOps, 2018 (arXiv 1804.06028); Tay et al., Long Range Arena, ICLR 2021 (arXiv 2011.04006).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array, Samples, Sizes
from softbench.errors import UsageError, text
from softbench.options import option
from softbench.tasks import _splits

TITLE = "ListOps"
SOURCE = "Tay et al., ICLR 2021, arXiv 2011.04006"
INPUT = "tokens"
READOUT = "mean"
SCORES = ("accuracy",)
RECIPE: Mapping[str, Any] = {"epochs": 5}
QUICK: Mapping[str, Any] = {"max_length": 32, "train": 300, "val": 100, "test": 200}

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
VOCABULARY = ("", *map(str, range(10)), *OPERATORS, "]")  # a token is its place; 0 is padding
_DEPTH, _MOST, _VALUE, _LONGEST = 10, 10, 0.25, 2000
_FIRST, _END = VOCABULARY.index(OPERATORS[0]), VOCABULARY.index("]")


@dataclass(frozen=True)
class Settings(Sizes):
    max_length: int = option(128, "sequences have fewer tokens, and are padded to as many", low=8, high=_LONGEST)
    min_length: int = option(0, "sequences have more tokens; 0 for a quarter of max_length", low=0)
    data: str = option("", "folder of the official release; empty to generate")


def open(settings: Settings, split: str) -> Samples:
    """A split as tokens and values."""
    if settings.data:
        tokens, labels = _read(Path(settings.data) / f"basic_{split}.tsv", settings.max_length,
                               getattr(settings, split))
    else:
        low = settings.min_length or settings.max_length // 4
        if low + 3 >= settings.max_length:
            raise UsageError(f"No sequence has more than {low} and fewer than {settings.max_length} tokens: set"
                             " min_length lower.")
        tokens, labels = _splits.drawn(settings, split, lambda rng, count: _draw(settings, low, rng, count))
    return Samples(tokens, labels, 10, vocab=len(VOCABULARY))


def chance(settings: Settings) -> float:
    """One of ten."""
    return 0.1


def value(operator: str, values: list[int]) -> int:
    """The value of an operator on the values below it."""
    if operator == "[MED":
        return int(np.median(values))
    return sum(values) % 10 if operator == "[SM" else min(values) if operator == "[MIN" else max(values)


def _draw(settings: Settings, low: int, rng: Generator, count: int) -> tuple[Array, Array]:
    tokens = np.zeros((count, settings.max_length), np.uint8)
    labels = np.empty(count, np.int64)
    for row in range(count):
        sequence: list[int] = []
        while not low < len(sequence) < settings.max_length:
            sequence = []
            labels[row] = _node(rng, 1, sequence, settings.max_length)
        tokens[row, :len(sequence)] = sequence
    return tokens, labels


def _node(rng: Generator, depth: int, sequence: list[int], most: int) -> int:
    """Append a node to the sequence, and give its value; one that has become too long is not finished.

    The root is an operator, as a digit alone is shorter than any length asked for.
    """
    if depth == _DEPTH or (depth > 1 and rng.random() > _VALUE):
        sequence.append(1 + (digit := int(rng.integers(10))))
        return digit
    place = len(sequence)
    sequence.append(_FIRST)
    values = []
    for _ in range(rng.integers(2, _MOST + 1)):
        values.append(_node(rng, depth + 1, sequence, most))
        if len(sequence) >= most:
            return 0
    sequence[place] += (which := int(rng.integers(len(OPERATORS))))
    sequence.append(_END)
    return value(OPERATORS[which], values)


def _read(file: Path, most: int, count: int) -> tuple[Array, Array]:
    """A file of the official release: brackets for order only are left out."""
    known = {word: place for place, word in enumerate(VOCABULARY)} | {"(": 0, ")": 0}
    rows, labels = [], []
    try:
        with file.open(newline="") as lines:
            for line in csv.DictReader(lines, delimiter="\t"):
                rows.append([known[word] for word in line["Source"].split() if known[word]])
                labels.append(int(line["Target"]))
                if len(rows) == count:
                    break
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise UsageError(f"Cannot read '{file}' as ListOps of Long Range Arena, with Source and Target:"
                         f" {type(error).__name__}: {text(error)}.") from error
    if not rows:
        raise UsageError(f"'{file}' holds no sample.")
    if (longest := max(map(len, rows))) > most:
        raise UsageError(f"'{file}' has a sample of {longest:,} tokens, and max_length={most} would cut it: set"
                         f" max_length={_LONGEST}." if longest <= _LONGEST else
                         f"'{file}' has a sample of {longest:,} tokens; the official release has at most {_LONGEST:,}.")
    tokens = np.zeros((len(rows), most), np.uint8)
    for row, sequence in enumerate(rows):
        tokens[row, :len(sequence)] = sequence
    return tokens, np.array(labels, np.int64)
