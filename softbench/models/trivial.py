"""Rules without attention: the most frequent label, the label that one token goes with, a count of the tokens.

They say how much of a task's score is no recall.

Each is learned from samples and scored on others as a model is. Numbers and pixels are cut into 16 levels first. Where
queries are read, one token is that at the query, or near it; otherwise that at one place, the best of them on the
samples it is learned from. The count is multinomial naive Bayes: argmax of log P(y) + sum_t n_t log P(t | y).
"""

from __future__ import annotations

import numpy as np

from softbench.contracts.task import Array, Samples

_LEVELS = 16
_NEAR = range(-2, 3)  # places about a query
_PLACES = 256
_AT_ONCE = 256  # samples, so that a large vocabulary needs no table of all of them


def scores(train: Samples, test: Samples) -> dict[str, float]:
    """The accuracy on `test` of each rule, by its name."""
    labels, truth = train.labels.reshape(-1), test.labels.reshape(-1)
    (tokens, kinds), (others, _) = _tokens(train), _tokens(test)
    places, there = _at_places(train, tokens), _at_places(test, others)
    guess = np.bincount(labels).argmax()
    tables = [_table(column, labels, kinds, train.classes) for column in places.T]
    best = max(range(len(tables)), key=lambda i: float((tables[i][places[:, i]] == labels).mean()))
    counted = _counted(train, tokens, others, kinds)
    return {"most frequent label": float((truth == guess).mean()),
            "one token": float((tables[best][there[:, best]] == truth).mean()),
            "count of tokens": float((counted == test.labels.reshape(len(test), -1)).mean())}


def _tokens(samples: Samples) -> tuple[Array, int]:
    """Samples as whole numbers [S, N], and how many there can be."""
    inputs = samples.inputs.reshape(len(samples), -1)
    if inputs.dtype.kind == "f":
        levels = np.digitize(inputs, np.linspace(-1.5, 1.5, _LEVELS - 1))
        return levels, _LEVELS
    if samples.inputs.ndim > 2:
        return (inputs // _LEVELS).astype(np.int64), _LEVELS
    return inputs.astype(np.int64), samples.vocab


def _at_places(samples: Samples, tokens: Array) -> Array:
    """The tokens that a rule may look at, one column for each place: [labels, places]."""
    if samples.queries is None:
        step = -(-tokens.shape[1] // _PLACES)
        return tokens[:, ::step]
    rows = np.arange(len(tokens))[:, None]
    return np.stack([tokens[rows, np.clip(samples.queries + near, 0, tokens.shape[1] - 1)].reshape(-1)
                     for near in _NEAR], 1)


def _table(tokens: Array, labels: Array, kinds: int, classes: int) -> Array:
    """Return the most frequent label of each token."""
    counts = np.bincount(tokens * classes + labels, minlength=kinds * classes).reshape(kinds, classes)
    counts *= len(labels) + 1
    counts += np.bincount(labels, minlength=classes)  # a token not met has the usual label
    return counts.argmax(1)


def _counted(train: Samples, tokens: Array, others: Array, kinds: int) -> Array:
    """The labels [S, Q] that naive Bayes gives to samples by their counts of tokens."""
    labels = train.labels.reshape(len(train), -1)  # [S, Q]
    counts: Array = np.ones(train.classes * kinds)
    for column in labels.T:
        counts += np.bincount((column[:, None].astype(np.int64) * kinds + tokens).reshape(-1), minlength=len(counts))
    by_label = counts.reshape(train.classes, kinds)
    by_label /= by_label.sum(1, keepdims=True)
    np.log(by_label, out=by_label)
    prior = np.log(np.bincount(labels.reshape(-1), minlength=train.classes) + 1)
    parts = (others[start:start + _AT_ONCE] for start in range(0, len(others), _AT_ONCE))
    best: Array = np.concatenate([(_counts(part, kinds) @ by_label.T + prior).argmax(1) for part in parts])
    return best[:, None]


def _counts(tokens: Array, kinds: int) -> Array:
    rows = np.arange(len(tokens))[:, None] * kinds
    return np.bincount((tokens + rows).reshape(-1), minlength=len(tokens) * kinds).reshape(-1, kinds).astype(float)
