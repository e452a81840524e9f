"""`train`: any task with any attention, its settings in one flag each, and one line for what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import helpers
import pytest

from softbench import records
from softbench.training import job

MQAR = ("--task", "mqar:pairs=2:tokens=16", "--set", "vocab=16", "--set", "train=70", "--set", "val=20", "--set",
        "width=8", "--set", "model.depth=1", "--set", "heads=1", "--device", "cpu", "--threads", "1")
SMALL = ("--total-batch", "32", "--batch", "16", "--epochs", "1")


def test_a_task_is_learned_and_goes_on_and_its_settings_are_where_they_belong(run):
    attn = ("--attn", "soft:landmarks=4", "--set", "recipe.seed=3", "--set", "attention.seed=5", "--set", "lr=0.002")
    code, out, err = run("train", *MQAR, *SMALL, *attn, "--out", "r")
    assert code == 0, err
    assert "accuracy" in out
    assert "tokens 16" in out.replace("\n    ", " ")  # a sequence is no image of 1x16
    assert "Chance: 0.5" in err
    assert "Epoch 1/1: train loss" in err
    record = records.read("r/records.jsonl")[0][0]
    assert (record.label, record.seed, record.options["seed"]) == ("soft-encoder:landmarks=4:seed=5", 3, 5)
    settings = record.detail["settings"]
    assert (settings["task.vocab"], settings["model.depth"], settings["lr"]) == (16, 1, 0.002)
    code, _, err = run("train", *MQAR, *SMALL, *attn, "--out", "r", "--dry-run")
    assert (code, "Finished already: all 1 epochs are in r." in err) == (0, True)
    code, _, err = run("eval-imagenet", "--checkpoint", "r/checkpoints/best.pt", "--data", "digits")
    assert (code, err.count("\n"), "has learned mqar" in err) == (2, 1, True)


def test_images_are_a_task_as_train_imagenet_has_it(run, monkeypatch):
    jobs = []
    monkeypatch.setattr(job, "train", lambda asked, watch: jobs.append(asked) or [])
    flags = ("--total-batch", "32", "--epochs", "1", "--set", "landmarks=9", "--set", "mixup=0", "--device", "cpu")
    own = ("--task", "images:limit=32", "--attn", "soft", "--set", "variant=small", "--data", "x")
    assert run("train", *own, *flags)[0] == 0
    assert run("train-imagenet", "--arch", "soft-small", "--data", "x", "--limit", "32", *flags)[0] == 0
    one, other = jobs
    assert replace(one, command="") == replace(other, command="")
    assert (one.task.limit, one.arch, one.recipe.mixup, one.out.name) == (32, "soft-small", 0, "soft-small-x")


@pytest.mark.parametrize(("arguments", "said"), [
    (["--task", "mqra"], "Did you mean 'mqar'"),
    (["--task", "mqar:pears=2"], "Did you mean 'pairs'"),
    (["--task", "mqar:pairs"], "is not an option. Write name:key=value, as in needle:tokens=256"),
    (["--task", "mqar", "--set", "pears=2"], "Did you mean 'pairs'"),
    (["--task", "mqar", "--set", "pairs"], "recipe.KEY=VALUE, task.KEY=VALUE, model.KEY=VALUE or attention.KEY=VALUE"),
    (["--task", "mqar", "--set", "model.pairs=2"], "No key"),
    (["--task", "mqar", "--attn", "sofmax"], "Did you mean 'softmax'"),
    (["--task", "mqar", "--attn", "soft,linear"], "one attention learns at a time"),
    (["--task", "mqar", "--set", "pairs=99"], "tokens"),
    (["--task", "mqar", "--set", "width=7"], "not divided by 2 heads"),
    (["--task", "mqar", "--set", "train=32"], "fewer than one total batch of 64"),
    (["--task", "mqar", "--epochs", "2", "--set", "epochs=3"], "--epochs and --set epochs are both given"),
    (["--task", "mqar", "--data", "x"], "No option of task 'mqar' named 'data'"),
    (["--task", "images", "--attn", "softmax:impl=math"], "leave out impl=math"),
    (["--task", "images", "--set", "variant=teeny"], "soft-tiny"),
    (["--task", "mine.py"], "Settings"),
    (["--task", "bare.py"], "Settings must be a frozen dataclass"),
    ([], "Missing option '--task'"),
])
def test_mistakes_are_one_line(run, arguments, said):
    Path("bare.py").write_text(helpers.SOUND_TASK.replace("@dataclass(frozen=True)\n", "").replace("(Sizes)", ""))
    Path("mine.py").write_text('"""A task without settings."""\n')
    attn = [] if "--attn" in arguments else ["--attn", "soft"]
    code, out, err = run("train", *arguments, *attn, "--device", "cpu", "--dry-run")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_tasks_that_read_folders_of_one_name_have_folders_of_their_own(run, monkeypatch):
    jobs = []
    monkeypatch.setattr(job, "train", lambda asked, watch: jobs.append(asked.out.name) or [])
    for task in ("text", "listops", "mqar"):
        data = [] if task == "mqar" else ["--data", "/x/lra"]
        assert run("train", "--task", task, *data, "--attn", "soft", "--device", "cpu")[0] == 0
    assert jobs == ["soft-encoder-text-data--x-lra", "soft-encoder-listops-data--x-lra", "soft-encoder-mqar"]
