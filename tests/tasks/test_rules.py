"""Samples that are made follow the published rules, by their statistics and by solving them another way."""

from __future__ import annotations

import numpy as np
import pytest
import task_contract as contract
from scipy import stats

from softbench.contracts import task as tasks
from softbench.tasks import _pictures, _splits, listops, retrieval

SURE = 1e-6  # a right generator fails one such test in a million seeds


def drawn(name: str, count: int = 2000, **values: object):
    """Samples of a task to learn from."""
    return tasks.load(name, {"train": count, "val": 1, "test": 1, **values}).open("train")


def recalled(tokens: np.ndarray, pairs: int) -> dict[int, int]:
    """The last value of each key of a sequence."""
    return {int(key): int(value) for key, value in tokens[:2 * pairs].reshape(-1, 2)}


@pytest.mark.parametrize(("name", "context", "options"), [
    ("mqar", 8, {}), ("mqar", 8, {"filler": "keys"}), ("mqar", 16, {"pairs": 16}),
    ("forgetting", 12, {}), ("forgetting", 10, {"updates": 2})])
def test_recall_is_solved_by_a_table_of_keys(name: str, context: int, options: dict[str, object]) -> None:
    samples = drawn(name, 300, **options)
    for tokens, labels, queries in zip(samples.inputs, samples.labels, samples.queries, strict=True):
        table = recalled(tokens, context)
        assert [table[int(tokens[place])] - 64 for place in queries] == labels.tolist()
        assert len(set(tokens[queries].tolist())) == len(table) == len(queries)  # each key once
        assert (tokens[2 * context:] < 64).all()  # no value among the queries
        assert (queries % 2 == 0).all()


def test_keys_and_values_are_drawn_alike_and_differ() -> None:
    samples = drawn("mqar", vocab=32)
    keys, values = samples.inputs[:, 0:16:2].astype(int), samples.inputs[:, 1:16:2].astype(int)
    for tokens, low, count in ((keys, 1, 15), (values, 16, 16)):
        assert all(len(set(row)) == 8 for row in tokens)
        assert stats.chisquare(np.bincount(tokens[:, 0] - low, minlength=count)).pvalue > SURE
    assert abs(np.corrcoef(keys[:, 0], values[:, 0])[0, 1]) < 0.12


def test_keys_are_asked_for_by_a_power_law() -> None:
    """The first of the slots that are drawn has the law's probabilities; later ones follow from it."""
    rng = np.random.default_rng(3)
    weights = np.arange(1.0, 25) ** (0.01 - 1)
    first = _splits.chosen(rng, 20_000, 24, 8, weights)[:, 0]
    assert stats.chisquare(np.bincount(first, minlength=24), 20_000 * weights / weights.sum()).pvalue > SURE
    places = drawn("mqar").queries
    assert (places >= 16).all()
    assert np.bincount((places.reshape(-1) - 16) // 2, minlength=24)[0] > 0.9 * len(places)  # mostly early
    assert stats.kendalltau(np.arange(24), np.bincount((places.reshape(-1) - 16) // 2, minlength=24)).statistic < -0.8


def test_what_is_forgotten_had_another_value() -> None:
    samples = drawn("forgetting", 300)
    for tokens, labels, queries in zip(samples.inputs, samples.labels, samples.queries, strict=True):
        before, after = recalled(tokens, 8), recalled(tokens, 12)
        again = [int(key) for key in tokens[16:24:2]]
        assert len(set(again)) == 4
        assert all(before[key] != after[key] for key in again)
        assert sum(before[int(tokens[place])] - 64 != label for place, label in zip(queries, labels, strict=True)) == 4


def test_copies_stand_in_order_among_blanks() -> None:
    samples = drawn("selective_copy")
    for tokens, labels, queries in zip(samples.inputs, samples.labels, samples.queries, strict=True):
        content = tokens[:56]
        assert content[content > 0].tolist() == (labels + 1).tolist()
        assert queries.tolist() == list(range(56, 64))
        assert set(tokens[56:].tolist()) == {17}
    assert stats.chisquare(np.bincount(samples.labels.reshape(-1), minlength=16)).pvalue > SURE
    assert stats.chisquare((samples.inputs[:, :56] > 0).sum(0)).pvalue > SURE  # anywhere alike


def test_the_needle_follows_its_mark_and_lies_anywhere() -> None:
    samples = drawn("needle", tokens=64)
    rows, marks = (samples.inputs == 17).nonzero()
    assert rows.tolist() == list(range(2000))
    assert (samples.inputs[rows, marks + 1] - 1).tolist() == samples.labels[:, 0].tolist()
    assert (samples.inputs[:, -1] == 18).all()
    assert stats.chisquare(np.bincount(marks, minlength=62)).pvalue > SURE
    assert stats.chisquare(np.bincount(samples.labels[:, 0], minlength=16)).pvalue > SURE


@pytest.mark.parametrize(("grid", "cells"), [(2, 3), (3, 8), (4, 10)])
def test_the_pointer_names_the_cell_that_is_read(grid: int, cells: int) -> None:
    samples = drawn("pointer", 400, grid=grid)
    known = {image.tobytes(): int(label) for image, label in zip(*_pictures.digits(), strict=True)}
    first = []
    for image, label in zip(samples.inputs, samples.labels, strict=True):
        digits = [known[np.ascontiguousarray(image[:, r:r + 8, c:c + 8]).tobytes()]
                  for r in range(0, 8 * grid, 8) for c in range(0, 8 * grid, 8)]
        first.append(digits[0])
        assert digits[digits[0] + 1] == label
    assert sorted(set(first)) == list(range(cells))
    assert stats.chisquare(np.bincount(samples.labels, minlength=10)).pvalue > SURE


def test_no_picture_of_a_digit_is_in_two_splits_of_pointer() -> None:
    task = contract.small("pointer", train=2000)
    shown = {split: {np.ascontiguousarray(image[:, r:r + 8, c:c + 8]).tobytes() for image in task.open(split).inputs
                     for r in (0, 8) for c in (0, 8)} for split in ("train", "val", "test")}
    assert not shown["train"] & shown["test"] | shown["train"] & shown["val"] | shown["val"] & shown["test"]


def evaluated(words: list[str]) -> int:
    """The value of a list of operations, with a stack."""
    stack: list[list] = [[]]
    for word in words:
        if word.startswith("["):
            stack.append([word])
        elif word == "]":
            operator, *numbers = stack.pop()
            stack[-1].append({"[MIN": min(numbers), "[MAX": max(numbers), "[SM": sum(numbers) % 10,
                              "[MED": int(np.median(numbers))}[operator])
        else:
            stack[-1].append(int(word))
    (result,), = stack
    return result


def test_list_operations_have_the_value_of_their_label() -> None:
    samples = drawn("listops", 300, max_length=64)
    for tokens, label in zip(samples.inputs, samples.labels, strict=True):
        words = [listops.VOCABULARY[token] for token in tokens if token]
        assert 16 < len(words) < 64
        assert not tokens[len(words):].any()
        assert evaluated(words) == label


def test_list_operations_are_nested_by_the_published_rule() -> None:
    """Of trees that no length cuts: operators and their numbers of nodes alike, one node in four an operator."""
    rng = np.random.default_rng(7)
    operators, widths, kinds = [], [], []
    for _ in range(1500):
        sequence: list[int] = []
        listops._node(rng, 8, sequence, 1 << 20)  # two more levels below it, of nodes that are not at the deepest
        depth, counts = 8, {}
        for token in sequence:
            word = listops.VOCABULARY[token]
            if word == "]":
                widths.append(counts.pop(depth))
                depth -= 1
                continue
            if depth in counts:
                counts[depth] += 1
            if depth == 9 or (depth == 8 and not counts):
                kinds.append(word.startswith("["))
            if word.startswith("["):
                operators.append(word)
                depth += 1
                counts[depth] = 0
    assert stats.chisquare([operators.count(word) for word in listops.OPERATORS]).pvalue > SURE
    assert stats.chisquare(np.bincount(widths, minlength=11)[2:]).pvalue > SURE
    assert stats.binomtest(sum(kinds), len(kinds), 0.25).pvalue > SURE


def test_pixels_of_a_picture_are_a_sequence() -> None:
    task = contract.small("image", side=14)
    images, labels = _pictures.mnist()
    which = _splits.divided(task.settings, "test", labels, images)
    samples = task.open("test")
    assert samples.labels.tolist() == labels[which].tolist()
    blocks = images[which[0], 0].astype(float).reshape(14, 2, 14, 2).mean((1, 3))
    np.testing.assert_allclose(samples.inputs[0, :, 0], blocks.reshape(-1) / 127.5 - 1, rtol=1e-5)


def test_each_label_is_alike_in_all_splits() -> None:
    for name in ("digits", "mnist5k", "mnist1d"):
        for split in ("val", "test"):
            counts = np.bincount(contract.small(name, test=500).open(split).labels)
            assert counts.max() - counts.min() <= 3, (name, split)


def test_mnist1d_is_the_published_set() -> None:
    """Its numbers are centred with deviation 1 over all 5,000 samples; a picture of each label occurs 500 times."""
    task = tasks.load("mnist1d", {"train": 5000, "val": 1, "test": 1})
    parts = [task.open(split) for split in ("train", "val", "test")]
    numbers = np.concatenate([part.inputs for part in parts])
    assert numbers.shape == (5000, 40, 1)
    assert abs(numbers.mean()) < 1e-4
    assert abs(numbers.std() - 1) < 1e-4
    assert np.bincount(np.concatenate([part.labels for part in parts])).tolist() == [500] * 10


def test_pieces_of_text_are_from_the_files_of_their_split() -> None:
    from softbench.tasks import _texts

    task = contract.small("text", train=60, val=30, test=30)
    names = task.settings.packages.split(",")
    files = {split: [_texts.files(task.settings, 64, name, split) for name in names] for split in ("train", "test")}
    for split in files:
        samples = task.open(split)
        assert stats.chisquare(np.bincount(samples.labels)).pvalue > 0.99  # each class as often
        for row, label in zip(samples.inputs, samples.labels, strict=True):
            assert any(row.tobytes() in text for text in files[split][label])
    everything = [text for package in files["train"] for text in package]
    assert not [text for package in files["test"] for text in package if text in everything]


def test_long_files_are_shown_as_often_in_one_file_as_in_two() -> None:
    """The letter of a file says which it is; by places all alike, pairs of one file would be of the long one."""
    settings = tasks.load("retrieval", {"tokens": 16}).settings
    files = [b"s" * 20, b"l" * 5000]
    pieces, labels = retrieval._draw(settings, [files], np.random.default_rng(3), 1000)
    longs = (pieces[:, [0, 8]] == ord("l"))
    assert (longs[labels == 0].sum(1) == 1).all()
    assert np.isin(longs[labels == 1].sum(1), (0, 2)).all()
    assert stats.binomtest(int(longs[labels == 1, 0].sum()), int(labels.sum()), 0.5).pvalue > SURE


def test_pieces_of_one_file_do_not_overlap() -> None:
    settings = tasks.load("retrieval", {"tokens": 16}).settings
    pieces, labels = retrieval._draw(settings, [[bytes(range(1, 25)), b"x" * 16]], np.random.default_rng(3), 400)
    own = pieces[(labels == 1) & (pieces[:, 0] < ord("x"))].astype(int)
    first = np.sort(own[:, [0, 8]], 1)
    assert (first[:, 1] - first[:, 0] >= 8).all()
    assert (first.min(), first.max()) == (1, 17)  # from the first byte to the last


def test_one_sample_that_is_missing_is_drawn_until_it_is_there() -> None:
    for seed in range(9):
        sizes = tasks.Sizes(train=1, val=1, test=6, data_seed=seed)
        parts = [_splits.drawn(sizes, split, lambda rng, count: (rng.integers(0, 8, (count, 1)),))[0]
                 for split in _splits.ORDER]
        assert sorted(np.concatenate(parts)[:, 0]) == list(range(8))


def test_two_pieces_are_of_one_file_where_the_label_says_so() -> None:
    from softbench.tasks import _texts

    task = contract.small("retrieval", train=60)
    held = [text for name in task.settings.packages.split(",")
            for text in _texts.files(task.settings, 64, name, "train")]
    samples = task.open("train")
    assert samples.labels.sum() == 30
    for row, label in zip(samples.inputs, samples.labels, strict=True):
        one, other = row[:32].tobytes(), row[32:].tobytes()
        together = any(one in text and other in text for text in held)
        assert together >= label
    pieces = [(row[:32].tobytes(), row[32:].tobytes()) for row in samples.inputs[samples.labels == 0]]
    apart = sum(not any(one in text and other in text for text in held) for one, other in pieces)
    assert apart > 20  # two files may hold the same words by chance
