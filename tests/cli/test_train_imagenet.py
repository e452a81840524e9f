"""`train-imagenet` and `eval-imagenet`: flags, what is said when they are wrong, exit codes, and a whole run."""

from __future__ import annotations

import fcntl
import io
import random
import signal
import sys
import time

import pytest
import torch

from softbench import records
from softbench.cli import _progress, _training, cli
from softbench.errors import ResultsError
from softbench.tasks.images.recipe import Recipe
from softbench.training.position import Position

SHARED = {"data", "splits", "class_map", "limit", "device", "amp", "workers", "threads", "max_bad", "assignments",
          "form", "arch", "out", "batch", "img_size"}
FLAGS = {
    "train-imagenet": SHARED | {"epochs", "total_batch", "classes", "compile", "sync_bn", "fsdp", "checkpoint_minutes",
                                "on_nan", "resume", "tensorboard", "dry_run"},
    "eval-imagenet": SHARED | {"checkpoint", "weights", "crop", "interpolation", "mean", "std"},
}
SMALL = ("--arch", "timm:test_efficientnet", "--data", "digits", "--limit", "64", "--total-batch", "32",
         "--threads", "1")


@pytest.mark.parametrize("command", FLAGS)
def test_flags_are_those(command):
    assert {option.name for option in cli.get_command(None, command).params} == FLAGS[command]


def test_a_run_and_its_score(run):
    code, out, err = run("train-imagenet", *SMALL, "--out", "r", "--epochs", "2", "--set", "mixup=0.2")
    assert code == 0, err
    assert "top-1" in out
    assert "Epoch 2/2: train loss" in err
    assert "Run: r" in err
    assert "\x1b" not in out + err
    code, out, err = run("show", "r/records.jsonl")
    assert code == 0
    assert "train: each epoch" in out
    code, _, err = run("plot", "r/records.jsonl", "--out", "curves.svg")
    assert (code, err.count("Plot: curves-")) == (0, 3)
    code, out, err = run("eval-imagenet", "--checkpoint", "r/checkpoints/best.pt", "--data", "digits", "--limit", "64",
                         "--threads", "1", "--out", "scores.jsonl", "--format", "csv")
    assert code == 0, err
    assert out.startswith("measure,quantity")
    best = max(r.value for r in records.read("r/records.jsonl")[0] if r.quantity in ("top1", "top1_ema"))
    assert next(r.value for r in records.read("scores.jsonl")[0] if r.quantity == "top1") == best
    code, out, err = run("train-imagenet", *SMALL, "--out", "r", "--epochs", "2", "--set", "mixup=0.2")
    assert (code, "Finished already" in err) == (0, True)


@pytest.mark.parametrize(("arguments", "said"), [
    (["--arch", "soft-teeny", "--data", "digits"], "soft-tiny"),
    (["--arch", "soffit-tiny", "--data", "digits"], "soft-tiny"),
    (["--data", "digits", "--set", "landmark=4"], "Did you mean 'landmarks'"),
    (["--data", "digits", "--set", "warmup=4"], "warmup_"),
    (["--data", "digits", "--set", "lr"], "not KEY=VALUE"),
    (["--data", "digits", "--set", "model.lr=1"], "recipe.KEY=VALUE"),
    (["--data", "digits", "--set", "lr=high"], "finite number"),
    (["--data", "digits", "--set", "landmarks=many"], "whole number"),
    (["--data", "digits", "--total-batch", "48", "--batch", "32"], "not a multiple of 32"),
    (["--data", "digits", "--total-batch", "5000"], "1,437 training images, fewer"),
    (["--data", "digits", "--epochs", "0"], "x>=1"),
    (["--data", "digits", "--checkpoint-minutes", "nan"], "nan is not a finite number"),
    (["--data", "digits", "--splits", "train"], "two names"),
    (["--data", "digits", "--epochs", "2", "--set", "epochs=3"], "--epochs and --set epochs are both given"),
    (["--data", "digits", "--set", "augment=rnad-m9"], "augment='rnad-m9'"),
    (["--data", "nowhere"], "No folder nowhere"),
    (["--data", "digits", "--device", "gpu"], "No device named 'gpu'"),
    (["--data", "digits", "--fsdp"], "start them with torchrun"),
    (["--data", "digits", "--sync-bn"], "on GPUs only"),
    ([], "Missing option '--data'"),
])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_mistakes_are_one_line(run, arguments, said, dry):
    device = [] if "--device" in arguments else ["--device", "cpu"]
    code, out, err = run("train-imagenet", *arguments, *device, *dry, "--threads", "1")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_mistakes_in_scoring_are_one_line(run, tmp_path):
    for arguments, code, said in ((["--checkpoint", "none.pt", "--data", "digits"], 1, "Cannot read none.pt"),
                                  (["--checkpoint", "x", "--data", "digits", "--set", "lr=1"], 2, "trains nothing"),
                                  (["--data", "digits"], 2, "Missing option '--checkpoint'")):
        found, out, err = run("eval-imagenet", *arguments)
        assert (found, out, err.count("\n")) == (code, "", 1)
        assert said in err


def test_a_score_that_cannot_be_kept_is_told(run, monkeypatch):
    code, _, err = run("train-imagenet", *SMALL, "--out", "r", "--epochs", "1")
    assert code == 0, err

    def full(path, found):
        raise ResultsError("Cannot write scores.jsonl: No space left on device.")

    monkeypatch.setattr(records, "append", full)
    code, out, err = run("eval-imagenet", "--checkpoint", "r/checkpoints/best.pt", "--data", "digits", "--limit", "64",
                         "--threads", "1", "--out", "scores.jsonl")
    assert (code, "top-1" in out) == (1, True)
    assert err.splitlines()[1:] == ["Error: Cannot write scores.jsonl: No space left on device."]


def test_dry_run_shows_the_recipe_and_leaves_no_trace(run, tmp_path):
    before = torch.get_rng_state(), random.getstate(), torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    code, out, err = run("train-imagenet", "--data", "synthetic", "--arch", "performer-medium", "--set",
                         "features=64", "--set", "recipe.eps=1e-6", "--dry-run", "--device", "cpu")
    assert code == 0, err
    lines = {line.split()[0]: line.split()[1] for line in out.splitlines() if line.count("  ")}
    assert (lines["lr"], lines["total_batch"], lines["batch"], lines["eps"]) == ("0.00035", "1024", "32", "1e-06")
    assert set(Recipe.__dataclass_fields__) <= set(lines)
    assert "1,000 classes, images of 224 pixels, on 1 x cpu" in err
    assert "Total batch 1,024 = 32 images x 1 device x 32 accumulated; 1,251 steps an epoch, 300 epochs" in err
    assert not list(tmp_path.joinpath("here").iterdir())
    after = torch.get_rng_state(), random.getstate(), torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_dry_run_knows_a_run(run, tmp_path):
    assert run("train-imagenet", *SMALL, "--out", "r", "--epochs", "1")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, _, err = run("train-imagenet", *SMALL, "--out", "r", "--epochs", "1", "--dry-run")
    assert (code, "Finished already: all 1 epochs are in r." in err) == (0, True)
    for more, said in ((["--no-resume"], "holds a run already"), (["--set", "lr=1"], "another recipe (lr:")):
        code, _, err = run("train-imagenet", *SMALL, "--out", "r", "--epochs", "1", "--dry-run", *more)
        assert (code, said in err) == (2, True)
    with open("r/.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = run("train-imagenet", *SMALL, "--out", "r", "--epochs", "1", "--dry-run")
        assert (code, "Another run is at work in r" in err) == (2, True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_settings_go_where_they_belong():
    assert _training.assigned(["eps=1", "features=4", "attention.seed=3"], "performer-tiny") == (
        {"eps": "1"}, {"features": "4", "seed": "3"})
    assert _training.assigned(["lr=1"], "timm:resnet18") == ({"lr": "1"}, {})


def test_runs_go_into_folders_of_their_own():
    assert _training.slug("./mine.py-tiny") == "mine-py-tiny"
    assert _training.slug("timm:resnet18") == "timm-resnet18"


def told(watch: _progress.Watcher, *steps: int, of: int = 100) -> None:
    for step in steps:
        watch.step(Position(step=step, updates=step), of, 1, 0.5, 1e-3, 10.0)


def test_the_time_left_counts_what_this_start_has_done(capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    watch = _progress.Watcher(True)
    for step in (51, 61):  # after 50 steps of an earlier start
        now[0] += 20
        told(watch, step)
    assert [line.split("  ")[-1] for line in capsys.readouterr().err.splitlines()] == ["10 images/s", "0:01:18 left"]


def test_the_bar_does_not_take_earlier_steps_for_speed(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with _progress.Watcher(True) as watch:
        told(watch, 51, 52)
        (task,) = watch._bar.tasks
    assert task.completed == 52
    assert sum(sample.completed for sample in task._progress) == 1


@pytest.mark.parametrize("stderr", [None, "gone"])
def test_training_goes_on_where_nobody_listens(monkeypatch, stderr):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone() if stderr else None)
    with _progress.Watcher(True) as watch:
        watch.say("one")
        watch.say("two")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_obeyed_with_its_exit_code(process, number, code, tmp_path):
    child = process("train-imagenet", *SMALL, "--out", str(tmp_path / "r"), "--epochs", "500", "--workers", "1",
                    start_new_session=True)
    for _ in range(1200):
        if list(tmp_path.glob("r/checkpoints/step-*.pt")):
            break
        time.sleep(0.05)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (code, "")
    assert err.rstrip().endswith("The same command goes on from there.")
    assert "Traceback" not in err
