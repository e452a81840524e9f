"""What every task must keep, as functions that raise AssertionError, as `contract.py` has them of attentions: for the
built-in files and for your own.

Each check takes a task with its small settings. `CHECKS` names them all.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from softbench import options, plugins
from softbench.contracts import task as tasks
from softbench.contracts.task import SPLITS, Samples, Task
from softbench.models import trivial


def small(name: str, **values: object) -> Task:
    """A task by name or path, with its QUICK settings."""
    return tasks.load(name, {**plugins.load("tasks", name).QUICK, **values})


def described(task: Task) -> None:
    """The docstring gives rule, chance and source; each setting says what it does; constants are literals."""
    doc = task.module.__doc__ or ""
    assert len(doc.strip().partition("\n")[0]) > 10, "no first line"
    assert all(f"\n{word}: " in doc for word in ("Rule", "Chance", "Source")), "no rule, chance or source"
    for name, _, _, text in options.describe(task.module.Settings):
        assert text, f"setting {name} says nothing"
    task.module.Settings()  # every setting has a default
    constants = plugins.facts("tasks", str(task.module.__file__))
    for constant in ("TITLE", "SOURCE", "INPUT", "READOUT", "SCORES", "QUICK"):
        assert constants.get(constant), f"{constant} is no literal"


def sizes(task: Task) -> None:
    """Each split has as many samples as its setting says."""
    for split in SPLITS:
        assert len(task.open(split)) == getattr(task.settings, split), split


def seeded(task: Task) -> None:
    """The same samples, whatever the global generators are at, which stay as they were; others with another seed."""
    digests, states = [], []
    for start in (1, 2):
        random.seed(start)
        np.random.seed(start)  # noqa: NPY002
        torch.manual_seed(start)
        before = _global_state()
        digests.append([task.open(split).digest() for split in SPLITS])
        states.append(before == _global_state())
    assert digests[0] == digests[1], "other samples: do they follow a global generator, or the hour?"
    assert all(states), "a global generator has moved"
    other = tasks.load(str(task.module.__file__), {**task.changed, "data_seed": 1})
    assert digests[0] != [other.open(split).digest() for split in SPLITS], "data_seed changes nothing"


def apart(task: Task) -> None:
    """No two splits share a sample, nor does one hold it twice."""
    rows = [row.tobytes() for split in SPLITS for row in task.open(split).inputs]
    assert len(set(rows)) == len(rows), f"{len(rows) - len(set(rows))} samples are there more than once"


def steady(task: Task) -> None:
    """More samples to learn from leave those that are scored as they are."""
    name, count = str(task.module.__file__), task.settings.train
    fewer = tasks.load(name, {**task.changed, "train": count // 2})
    for split in ("val", "test"):
        assert task.open(split).digest() == fewer.open(split).digest(), split


def sound(task: Task) -> None:
    """Samples have the shapes and labels of their kind, which opening them checks; every label occurs."""
    train = task.open("train")
    form = task.form(train)
    assert min(*form.grid, max(form.vocab, form.channels)) > 0
    missing = set(range(train.classes)) - set(train.labels.reshape(-1).tolist())
    assert len(missing) <= train.classes // 4, f"labels {missing} do not occur"


def silent(task: Task) -> None:
    """It prints nothing, leaves no file and changes no samples that were handed out."""
    out, before = io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        os.chdir(folder)
        try:
            samples = task.open("test")
            assert os.listdir(folder) == [], "it wrote files"
            digest = samples.digest()
            samples.inputs[...] = 0
            assert task.open("test").digest() == digest, "whoever writes into samples changes those of others"
        finally:
            os.chdir(before)
    assert out.getvalue() == "", f"it printed {out.getvalue()!r}"


def not_trivial(task: Task) -> None:
    """No rule without attention reaches half of what there is to learn, and guessing reaches what the task says."""
    chance = task.chance()
    assert 0 < chance < 1, f"chance {chance}"
    assert not reads(task.open("train"), task.open("test"), chance)


def reads(train: Samples, test: Samples, chance: float) -> dict[str, float]:
    """The rules that read the labels from the inputs, with what they reach."""
    return {rule: score for rule, score in trivial.scores(train, test).items() if score > (1 + chance) / 2}


def _global_state() -> tuple[object, ...]:
    return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()  # noqa: NPY002


CHECKS: dict[str, Callable[[Task], None]] = {check.__name__: check for check in (
    described, sizes, seeded, apart, steady, sound, silent, not_trivial)}
