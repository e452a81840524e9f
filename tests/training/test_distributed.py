"""Several processes: they learn what one learns, count each image once, and none is left waiting for a lost one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import jobs

from softbench.errors import ResultsError, UsageError
from softbench.training import distributed
from softbench.training.distributed import Group
from softbench.training.scoring import score

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Twenty steps of one process that accumulates two micro-batches."""
    out = tmp_path_factory.mktemp("alone")
    code, answer = jobs.run(twenty(out))
    assert code == 0, answer
    return out, answer


def twenty(out: Path, **changes):
    return jobs.job(out, **({"total_batch": 16, "batch": 8, "epochs": 4, "limit": 80} | changes))


def test_two_processes_have_the_losses_of_one_at_the_same_total_batch(tmp_path, alone):
    answers = jobs.together(twenty(tmp_path))
    assert [code for code, _ in answers] == [0, 0], answers
    losses = [answer["losses"] for _, answer in answers]
    assert len(losses[0]) == 20
    assert losses[0] == losses[1], "the processes disagree on the loss"
    assert losses[0] == pytest.approx(alone[1]["losses"], abs=1e-4)
    assert_scores_are_those_of_the_checkpoint(tmp_path, answers[0][1]["epochs"][-1])
    assert any("16 = 8 images x 2 devices x 1 accumulated" in text for text in answers[0][1]["said"])
    assert any("16 = 8 images x 1 device x 2 accumulated" in text for text in alone[1]["said"])


def assert_scores_are_those_of_the_checkpoint(out: Path, numbers: dict[str, float]) -> None:
    """Batch norm's running statistics among them, which each process has its own of."""
    last = max((out / "checkpoints").glob("step-*"), key=lambda path: path.stat().st_mtime_ns)
    for weights, suffix in (("model", ""), ("ema", "_ema")):
        found = score(jobs.scoring(last, limit=80, weights=weights))
        scores = {record.quantity: record.value for record in found}
        assert scores["loss"] == pytest.approx(numbers[f"loss{suffix}"], rel=1e-6)
        assert scores["top1"] == numbers[f"top1{suffix}"]


def test_a_sharded_model_learns_the_same_and_goes_on_where_it_was(tmp_path, alone):
    from softbench.training.learner import Arithmetic

    changes = {"arch": "timm:test_vit", "ema": 0.9, "epochs": 1, "limit": 64}  # four steps
    asked = twenty(tmp_path, arithmetic=Arithmetic(fsdp=True), **changes)
    assert [code for code, _ in jobs.together(asked, end="TERM", at=1)] == [143, 143]
    answers = jobs.together(asked)
    assert [code for code, _ in answers] == [0, 0], answers
    whole = jobs.Watch()
    jobs.train(twenty(tmp_path / "alone", **changes), whole)
    left = answers[0][1]["losses"]
    assert 2 <= len(left) <= 3
    assert left == pytest.approx(whole.losses[-len(left):], abs=1e-4)
    assert answers[0][1]["epochs"][-1]["top1_ema"] == pytest.approx(whole.epochs[-1]["top1_ema"], abs=0.02)
    sharded, one = jobs.weights(tmp_path), jobs.weights(tmp_path / "alone")
    for part in ("state_dict", "state_dict_ema"):
        for name, tensor in one[part].items():
            torch.testing.assert_close(sharded[part][name], tensor, rtol=1e-2, atol=1e-3)


def test_evaluation_over_two_processes_is_that_of_one(tmp_path):
    """Of 77 images, which two processes and batches of 8 do not divide, with one model: its scores do not move."""
    changes = {"limit": 77, "total_batch": 16, "batch": 8, "epochs": 1, "lr": 0.0, "warmup_lr": 0.0, "min_lr": 0.0,
               "ema": 0.0, "arch": "timm:test_vit"}
    answers = jobs.together(jobs.job(tmp_path / "two", **changes))
    watch = jobs.Watch()
    jobs.train(jobs.job(tmp_path / "one", **changes), watch)
    (one,), (two,) = watch.epochs, answers[0][1]["epochs"]
    assert (two["top1"], two["top5"]) == (one["top1"], one["top5"])
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)


def test_when_one_process_is_killed_the_other_ends_and_says_so(tmp_path):
    port = jobs.free_port()
    asked = jobs.job(tmp_path, epochs=50, minutes=0.0)
    lost = jobs.start(asked, rank=1, world=2, port=port, end="KILL", at=3)
    stays = jobs.start(asked, rank=0, world=2, port=port)
    assert jobs.join(lost)[0] == -signal.SIGKILL
    code, said = jobs.join(stays)
    assert code == 1, said
    assert "lost touch with another one" in said
    assert "goes on from the last checkpoint" in said
    assert jobs.weights(tmp_path)["position"]["updates"] >= 3


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    port = jobs.free_port()
    asked = jobs.job(tmp_path, epochs=50)
    second = jobs.start(asked, rank=1, world=2, port=port, end="TERM", at=2)
    first = jobs.start(asked, rank=0, world=2, port=port)
    (code, said), (other, nothing) = jobs.join(first), jobs.join(second)
    assert (code, other, nothing) == (143, 143, None)
    assert "Stopped in epoch 1 after step" in said
    assert jobs.weights(tmp_path)["position"]["updates"] in (2, 3)


def test_a_mistake_is_told_once(tmp_path):
    answers = jobs.together(jobs.job(tmp_path, data=str(tmp_path / "none")))
    assert [code for code, _ in answers] == [2, 2]
    assert "No folder" in answers[0][1]
    assert answers[1][1] is None


def test_torchrun_starts_all_anew_from_the_last_checkpoint(tmp_path):
    """A worker is killed; torchrun restarts both, and the run ends."""
    script = tmp_path / "train.py"
    script.write_text(f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from training import jobs

def kill(position):
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and os.environ["RANK"] == "1" and position.updates == 4:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    watch = jobs.Watch(kill)
    jobs.train(jobs.job(Path({str(tmp_path / "run")!r}), minutes=0.0), watch)
    print("\\n".join(watch.said), len(watch.losses), flush=True)
""")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1",
         "--master-port", str(jobs.free_port()), str(script)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"Going on in .* after epoch 1, step [01]\.", done.stdout), done.stdout
    assert jobs.weights(tmp_path / "run")["position"]["epoch"] == 2


def test_what_does_not_fit_the_processes_is_said(tmp_path):
    from softbench.training import learner
    from softbench.training.learner import Arithmetic

    group = Group(0, 1, torch.device("cpu"))
    for recipe, arithmetic, world, said in (
            (jobs.recipe(), Arithmetic(), 3, "not a multiple of 16 on each of 3 devices"),
            (jobs.recipe(), Arithmetic(fsdp=True), 1, "start them with torchrun"),
            (jobs.recipe(), Arithmetic(sync_bn=True), 1, "on GPUs only")):
        with pytest.raises(UsageError, match=said):
            learner.check(recipe, arithmetic, Group(0, world, group.device))


@pytest.mark.parametrize(("total", "most", "world", "batch"), [
    (1024, 128, 8, 128), (1024, 128, 1, 128), (1024, 32, 8, 32), (64, 128, 1, 64), (96, 64, 4, 24), (30, 16, 2, 15)])
def test_the_batch_of_a_device_follows_from_the_total(total, most, world, batch):
    from softbench.training import learner

    recipe = jobs.recipe(total_batch=total, batch=most)
    assert learner.fitting_batch(recipe, world) == batch


def test_alone_nothing_needs_a_group(tmp_path):
    with distributed.processes(torch.device("cpu")) as group:
        assert (group.rank, group.world, group.leads) == (0, 1, True)
        assert group.summed([1, 2]) == [1, 2]
        assert group.gathered("x") == ["x"]
        assert group.shared("x") == "x"
        with pytest.raises(ResultsError), group.together():
            raise ResultsError("here")
