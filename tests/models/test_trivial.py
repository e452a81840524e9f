"""Rules without attention, as they are counted: the same answers for any vocabulary, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np

from softbench.contracts.task import Samples
from softbench.models import trivial


def drawn(count: int, vocab: int, classes: int, queries: int, seed: int) -> Samples:
    """Tokens of which some go with the label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, (count, queries))
    inputs = np.where(rng.random((count, 12)) < 0.3, labels[:, :1], rng.integers(0, vocab, (count, 12)))
    return Samples(inputs, labels, classes, rng.integers(0, 12, labels.shape), vocab)


def test_the_count_of_tokens_is_naive_bayes() -> None:
    train, test = drawn(700, 20, 5, 2, 1), drawn(600, 20, 5, 2, 2)
    counts = np.ones((5, 20))
    for row, labels in zip(train.inputs, train.labels, strict=True):
        for label in labels:
            counts[label] += np.bincount(row, minlength=20)
    chances = np.log(counts / counts.sum(1, keepdims=True))
    prior = np.log(np.bincount(train.labels.reshape(-1)) + 1)
    guesses = [int((prior + chances[:, row].sum(1)).argmax()) for row in test.inputs]
    right = float((np.array(guesses)[:, None] == test.labels).mean())
    assert 0.3 < right < 0.9
    assert trivial.scores(train, test)["count of tokens"] == right


def test_a_large_vocabulary_takes_no_table_of_all_samples() -> None:
    train, test = drawn(1000, 8192, 3, 1, 1), drawn(2000, 8192, 3, 1, 2)
    tracemalloc.start()
    try:
        trivial.scores(train, test)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2000 * 8192 * 8 / 2
