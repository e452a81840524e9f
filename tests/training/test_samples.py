"""Tasks in memory: what is drawn and judged, and that they go through loop, checkpoints and records as images do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from training import jobs

from softbench.contracts import task as contract
from softbench.errors import UsageError
from softbench.models.encoder import Size
from softbench.training.plan import Job
from softbench.training.samples import Learned, Lesson, SampleTask, Split, learn

CPU = torch.device("cpu")
SMALL = {"tokens": 16, "pairs": 2, "vocab": 16, "train": 100, "val": 21, "test": 30}


def mqar(**settings: Any) -> SampleTask:
    return SampleTask(contract.load("mqar", SMALL | settings), Size(width=16, heads=1, depth=1))


def lesson(task: SampleTask, values: Mapping[str, Any] | None = None, *, rank: int = 0, world: int = 1) -> Lesson:
    recipe = task.recipe({"epochs": 2, "total_batch": 32, "batch": 16} | dict(values or {}))
    return task.open(recipe, rank=rank, world=world, accumulate=2 // world, workers=0, device=CPU)


def job(out: Path, **recipe: Any) -> Job:
    task = mqar()
    return Job("soft-encoder", task, out, task.recipe({"epochs": 2, "total_batch": 32, "batch": 16} | recipe),
               {"landmarks": "4"}, threads=1)


def learned(**values: Any) -> Learned:
    return learn(mqar(), "linear", {}, mqar().recipe({"epochs": 2, "total_batch": 32, "batch": 32} | values), every=2)


def test_a_task_is_judged_by_all_its_answers_once_over_all_processes():
    """By a network that is right where the label is even; 21 samples are no multiple of anything here."""
    samples = mqar().task.open("val")
    right = samples.labels % 2 == 0

    def network(inputs, queries):
        label = torch.stack([torch.from_numpy(samples.labels)[(torch.from_numpy(samples.inputs) == row).all(1)][0]
                             for row in inputs])
        return 9.0 * F.one_hot(torch.where(label % 2 == 0, label, (label + 1) % samples.classes), samples.classes)

    for world in (1, 2):
        sums = sum(split.judged(network, batch) for rank in range(world)
                   for split in [Split(mqar(), "val", 4, rank, world, CPU)] for batch in split.validation())
        assert 0 < right.sum() < right.size
        assert sums[[0, 2]].tolist() == [right.sum(), right.size]
        wrong = math.log(1 + (samples.classes - 1) * math.exp(-9.0))
        assert float(sums[1]) == pytest.approx(right.size * wrong + 9.0 * (~right).sum(), rel=1e-3)


def test_processes_take_the_micro_batches_of_one_and_an_epoch_goes_on_from_any_step():
    alone = list(lesson(mqar()).training.epoch(1, 0))
    assert [batch.indices for batch in alone[2:]] == [b.indices for b in lesson(mqar()).training.epoch(1, 1)]
    dealt = [lesson(mqar(), rank=rank, world=2).training.epoch(1, 0) for rank in range(2)]
    assert [b.indices for pair in zip(*dealt, strict=True) for b in pair] == [batch.indices for batch in alone]
    samples = mqar().task.open("train")
    assert np.array_equal(alone[0].inputs[0], samples.inputs[alone[0].indices])
    assert [b.indices for b in lesson(mqar()).training.epoch(0, 0)] != [batch.indices for batch in alone]


def test_a_run_goes_on_where_it_was_to_the_same_bits(tmp_path):
    class Stopped(Exception):
        pass

    def stop(position):
        if position.updates == 4:
            raise Stopped

    whole, watch = jobs.train(job(tmp_path / "whole")), jobs.Watch()
    with pytest.raises(Stopped):
        jobs.train(job(tmp_path / "cut"), jobs.Watch(stop))
    cut = jobs.train(job(tmp_path / "cut"), watch)
    assert any("Going on" in text for text in watch.said)
    one, other = jobs.weights(tmp_path / "whole"), jobs.weights(tmp_path / "cut")
    assert all(jobs.equal(one[part], other[part]) for part in ("state_dict", "optimizer", "run", "data"))
    scores = [[(r.quantity, r.value) for r in run if r.quantity in ("accuracy", "loss", "train_loss")]
              for run in (whole, cut)]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 6
    record = whole[0]
    assert (record.measure, record.label, record.attention, record.rows, record.cols) == (
        "train", "soft-encoder:landmarks=4", "soft", 1, 16)
    assert {"classes": 8, "answers": 42}.items() <= record.coords.items()
    assert record.coords["data"].startswith("mqar:train=100")
    assert record.detail["settings"]["task.pairs"] == 2


def test_nobody_is_told_to_load_what_lies_in_memory_faster(tmp_path, monkeypatch):
    monkeypatch.setattr("softbench.training.run._SLOW_LOADER", 0.0)
    watch = jobs.Watch()
    jobs.train(job(tmp_path, epochs=1), watch)
    assert not [text for text in watch.said if "--workers" in text]


def test_another_task_in_the_same_folder_is_refused(tmp_path):
    jobs.train(job(tmp_path, epochs=1))
    changed = job(tmp_path, epochs=1)
    with pytest.raises(UsageError, match=r"another recipe \(task.pairs: 2 -> 3\)"):
        jobs.train(Job(changed.arch, mqar(pairs=3), tmp_path, changed.recipe, changed.options, threads=1))
    with pytest.raises(UsageError, match=r"another recipe \(data: mqar -> digits"):
        jobs.train(jobs.job(tmp_path, arch=changed.arch, options=changed.options))


def test_another_implementation_is_another_run():
    assert mqar().identity != replace(mqar(), impl="reference").identity


def test_learning_leaves_no_trace_and_follows_its_seed():
    before = torch.get_rng_state()
    one, two, other = learned(), learned(), learned(seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert (one.scores, [point.scores for point in one.curve]) == (two.scores, [point.scores for point in two.curve])
    assert one.scores["loss"] != other.scores["loss"]
    assert ([point.steps for point in one.curve], one.steps, one.answers) == ([2, 3, 4, 6], 6, 60)
    assert not one.diverged


def test_a_training_that_diverges_has_no_score():
    run = learned(lr=1e20, warmup_share=0, clip=0)
    assert (run.diverged, run.scores) == (True, {})


def test_weights_that_the_last_step_made_worthless_have_no_score_either():
    """The only step has a finite loss; what it leaves behind answers NaN."""
    run = learned(lr=1e20, warmup_share=0, clip=0, epochs=1, total_batch=96, batch=96)
    assert (run.steps, run.diverged, run.scores) == (1, True, {})


def test_a_training_says_which_samples_it_saw():
    task = mqar()
    assert learned(epochs=1).samples == {split: task.task.open(split).digest() for split in ("train", "val", "test")}


def test_a_budget_of_seconds_ends_a_training():
    task = mqar()
    run = learn(task, "linear", {}, task.recipe({"epochs": 9, "total_batch": 32, "batch": 32}), seconds=1e-9)
    assert (run.steps, len(run.curve), run.answers) == (1, 1, 60)


def test_the_learning_rate_rises_over_a_share_of_all_steps():
    recipe = mqar().recipe({})
    assert (recipe.epochs, recipe.warmup(10)) == (2, 2)  # mqar says two epochs
    assert mqar().recipe({"warmup_epochs": 1}).warmup(10) == 10


def test_too_few_samples_for_one_step_are_an_error():
    with pytest.raises(UsageError, match="100 samples to learn from, fewer than one total batch of 128"):
        lesson(mqar(), {"total_batch": 128, "batch": 64})
