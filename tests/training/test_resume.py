"""No work is lost: killed anywhere and started again, a run ends with the weights of one that was not disturbed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tasks.images.test_sources import folder
from training import jobs

from softbench import records
from softbench.errors import ResultsError, UsageError
from softbench.processes.stopping import Terminated
from softbench.records import Record
from softbench.tasks.images.data import EVALUATION, Images, Order
from softbench.tasks.images.lesson import Judged
from softbench.training import checkpoint, journal, loop
from softbench.training.learner import Learner

STEPS = 6  # two epochs of three


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    code, answer = jobs.run(jobs.job(out))
    assert code == 0, answer
    return out


def assert_same_end(out: Path, undisturbed: Path) -> None:
    one, other = jobs.weights(out), jobs.weights(undisturbed)
    for part in ("state_dict", "state_dict_ema", "optimizer", "scaler", "run"):
        assert jobs.equal(one[part], other[part]), part
    kept = ("epoch", "step", "updates", "loss", "bad", "best", "skipped")
    assert {name: one["position"][name] for name in kept} == {name: other["position"][name] for name in kept}


def test_killed_at_random_steps_it_ends_with_the_same_bits(tmp_path, undisturbed):
    """With another number of workers in each start, and checkpoints after each step or hardly any."""
    seed = int(os.environ.get("SOFTBENCH_KILL_SEED", time.time_ns() % 10**6))
    print("SOFTBENCH_KILL_SEED =", seed)
    first, second = sorted(random.Random(seed).sample(range(1, STEPS), 2))
    for minutes, at, workers in ((0.0, first, 2), (0.001, second, 0)):
        code, answer = jobs.run(jobs.job(tmp_path, minutes=minutes, workers=workers), end="KILL", at=at)
        assert code == -signal.SIGKILL, answer
    code, answer = jobs.run(jobs.job(tmp_path, workers=1))
    assert code == 0, answer
    assert_same_end(tmp_path, undisturbed)


def test_killed_at_any_moment_it_ends_with_the_same_bits(tmp_path, undisturbed):
    """By the clock, so that it may be while a checkpoint is written, images are scored, or nothing has begun."""
    for seconds in (random.uniform(0.2, 2.0), random.uniform(0.5, 3.0)):
        child = jobs.start(jobs.job(tmp_path, minutes=0.0))
        time.sleep(seconds)
        child.kill()
        child.join()
    code, answer = jobs.run(jobs.job(tmp_path))
    assert code == 0, answer
    assert_same_end(tmp_path, undisturbed)


def test_killed_between_record_and_checkpoint_no_epoch_is_listed_twice(tmp_path, undisturbed, monkeypatch):
    real, times = checkpoint.save, []

    def gone(*args, **kwargs):
        times.append(1)
        if len(times) == 1:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save", gone)
    with pytest.raises(KeyboardInterrupt):
        jobs.train(jobs.job(tmp_path))
    found = jobs.train(jobs.job(tmp_path))
    assert_same_end(tmp_path, undisturbed)
    assert [r.coords["epoch"] for r in found if r.quantity == "top1"] == [1, 2]
    assert (tmp_path / "summary.csv").read_text().count("\n") == 3


class Gone(BaseException):
    """The process was killed here."""


def killed(monkeypatch: pytest.MonkeyPatch, where: object, name: str, call: int, after: bool) -> None:
    """End the process at the so manieth call of a function, before or after it has done its work."""
    real, calls = getattr(where, name), []

    def ended(*args, **keys):
        calls.append(1)
        if len(calls) == call and not after:
            raise Gone
        result = real(*args, **keys)
        if len(calls) == call:
            raise Gone
        return result

    monkeypatch.setattr(where, name, ended)


def told(found: list[Record]) -> list[tuple[str, float | None, dict, dict]]:
    """Records without what a clock or a memory meter says."""
    measured = ("images_per_second", "peak_memory")
    times = ("first_step_seconds", "waited_share")
    return [(r.quantity, r.value, r.coords, {key: value for key, value in r.detail.items() if key not in times})
            for r in found if r.quantity not in measured]


@pytest.mark.parametrize(("where", "name", "call", "after"), [
    (Learner, "update", 3, True), (loop, "evaluate", 1, False), (loop, "evaluate", 2, True),
    (checkpoint, "save", 4, False), (checkpoint, "_link", 1, True), (checkpoint, "save", 4, True),
    (records, "append", 1, False), (records, "append", 1, True), (journal, "summary", 1, True),
    (Learner, "update", 4, False), (checkpoint, "save", 5, True), (records, "append", 2, False)])
def test_killed_anywhere_around_the_end_of_an_epoch_the_records_are_the_same(
        tmp_path, undisturbed, monkeypatch, where, name, call, after):
    """With a checkpoint after each step, three of them an epoch: the fourth is that of the epoch."""
    with monkeypatch.context() as patch:
        killed(patch, where, name, call, after)
        with pytest.raises(Gone):
            jobs.train(jobs.job(tmp_path, minutes=0.0))
    found = jobs.train(jobs.job(tmp_path))
    assert records.read(tmp_path / "records.jsonl") == (found, [])
    assert told(found) == told(records.read(undisturbed / "records.jsonl")[0])
    assert all(record.value for record in found if record.quantity in ("lr", "images_per_second", "peak_memory"))
    assert all(record.detail["first_step_seconds"] for record in found)
    best = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)
    assert jobs.equal(best["state_dict"], torch.load(undisturbed / "checkpoints" / "best.pt")["state_dict"])


def test_an_epoch_that_is_done_once_more_is_recorded_once(tmp_path, undisturbed):
    """Its checkpoint is damaged after it was recorded; a line of somebody else stays."""
    jobs.train(jobs.job(tmp_path, minutes=0.0))
    last = max((tmp_path / "checkpoints").glob("step-*"), key=lambda path: path.stat().st_mtime_ns)
    last.write_bytes(last.read_bytes()[:-100])
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write("a note\n")
    found = jobs.train(jobs.job(tmp_path))
    assert told(found) == told(records.read(undisturbed / "records.jsonl")[0])
    whole, problems = records.read(tmp_path / "records.jsonl")
    assert (whole, len(problems)) == (found, 1)


@pytest.mark.parametrize("spoil", [
    lambda state: state | {"position": {"epoch": "one"}}, lambda state: state | {"position": None},
    lambda state: state | {"run": [1]}, lambda state: state | {"run": state["run"] | {"batch": "many"}},
    lambda state: state | {"arch": torch.zeros(2)}, lambda state: state | {"images": 3},
    lambda state: {key: value for key, value in state.items() if key != "optimizer"},
    lambda state: state | {"records": [{"measure": 3}]}, lambda state: state | {"state_dict": {"x": 1}},
    lambda state: state | {"scaler": {"x": 1}, "optimizer": {"state": 5}},
    lambda state: [state], lambda state: state | {"hook": Path("code")}])
def test_an_odd_checkpoint_in_a_run_is_one_line(tmp_path, undisturbed, spoil):
    torch.save(spoil(jobs.weights(undisturbed)), tmp_path / "odd.pt")
    digest = hashlib.sha256((tmp_path / "odd.pt").read_bytes()).hexdigest()[:16]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "odd.pt").rename(tmp_path / "run" / "checkpoints" / f"step-00000006-{digest}.pt")
    with pytest.raises((ResultsError, UsageError)) as caught:
        jobs.train(jobs.job(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert "another --out" in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["training", "evaluation"])
def test_a_signal_is_obeyed_while_storage_hangs(tmp_path, monkeypatch, workers, split):
    """From the fifth micro-batch on, or in the first evaluation, no image comes any more."""
    real = Images.__getitem__

    def hanging(images, key):
        if (key[0] == EVALUATION) if split == "evaluation" else (images.subset is not None and key in late):
            time.sleep(600)
        return real(images, key)

    order = Order(100, 16, 2, 0, 1, jobs.recipe().seed)
    late = {key for batch in list(order)[4:] for key in batch} if split == "training" else set()
    monkeypatch.setattr(Images, "__getitem__", hanging)
    watch = jobs.Watch()
    steps = 2 if split == "training" else 3
    timer = threading.Thread(target=lambda: (wait_for(lambda: len(watch.losses) == steps), time.sleep(1),
                                             os.kill(os.getpid(), signal.SIGTERM)))
    timer.start()
    with pytest.raises(Terminated, match=f"Stopped in epoch 1 after step {steps} of 3; a checkpoint is in"):
        jobs.train(jobs.job(tmp_path, workers=workers), watch)
    sent = time.monotonic()
    timer.join()
    assert time.monotonic() - sent < 30
    assert not [child for child in multiprocessing.active_children() if "_Worker" in type(child).__name__]
    assert jobs.weights(tmp_path)["position"]["updates"] == steps


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.05)


def test_a_step_that_a_signal_ends_leaves_no_trace(tmp_path, undisturbed, monkeypatch):
    """In its second micro-batch, when batch norm has seen the first."""
    real, calls = Learner.loss_of, []

    def asked(learner, *args, **keys):
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(learner, *args, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "loss_of", asked)
        with pytest.raises(Terminated, match="after step 2 of 3"):
            jobs.train(jobs.job(tmp_path))
    jobs.train(jobs.job(tmp_path))
    assert_same_end(tmp_path, undisturbed)


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130), ("HUP", 129)])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(tmp_path, undisturbed, name, code):
    ended, said = jobs.run(jobs.job(tmp_path), end=name, at=4)
    assert ended == code
    assert "Stopped in epoch 2 after step" in said
    assert "The same command goes on from there" in said
    assert jobs.weights(tmp_path)["position"]["updates"] in (4, 5)
    assert jobs.run(jobs.job(tmp_path))[0] == 0
    assert_same_end(tmp_path, undisturbed)


def test_a_signal_during_evaluation_is_obeyed_there(tmp_path, undisturbed):
    watch = jobs.Watch()
    real = Judged.judged

    def judged(lesson, network, batch):
        if not watch.epochs:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(lesson, network, batch)

    patch = pytest.MonkeyPatch()
    patch.setattr(Judged, "judged", judged)
    with pytest.raises(BaseException, match="Stopped in epoch 1 after step 3 of 3"):
        jobs.train(jobs.job(tmp_path), watch)
    patch.undo()
    measured = dict.fromkeys(("seconds", "waited", "loss", "first", "peak"), 0)
    assert jobs.weights(tmp_path)["position"] | measured == measured | {
        "epoch": 0, "step": 3, "updates": 3, "counted": 3, "skipped": 0, "lr": watch.rates[2], "bad": [], "best": {}}
    jobs.train(jobs.job(tmp_path))
    assert_same_end(tmp_path, undisturbed)


def test_a_signal_before_the_first_step_is_obeyed_before_it(tmp_path):
    watch = jobs.Watch()
    real = Learner.__init__

    def slow(*args, **keys):
        real(*args, **keys)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "__init__", slow)
        with pytest.raises(Terminated, match="Stopped before the first step"):
            jobs.train(jobs.job(tmp_path), watch)
    assert watch.losses == []


def test_other_images_in_the_same_folder_are_refused(tmp_path):
    folder(tmp_path / "data", {"cat": 20, "dog": 20}, {"cat": 2, "dog": 2})
    asked = jobs.job(tmp_path / "run", data=str(tmp_path / "data"), limit=None, epochs=1)
    jobs.train(asked)
    (tmp_path / "data" / "train" / "cat" / "0.jpg").unlink()
    with pytest.raises(UsageError, match=r"has other images than when the run .* began \(images in train: 40 -> 39\)"):
        jobs.train(asked)


def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path, undisturbed):
    assert jobs.run(jobs.job(tmp_path, minutes=0.0), end="KILL", at=4)[0] == -signal.SIGKILL
    last = max((tmp_path / "checkpoints").glob("step-*"), key=lambda path: path.stat().st_mtime_ns)
    last.write_bytes(last.read_bytes()[:-100])
    watch = jobs.Watch()
    jobs.train(jobs.job(tmp_path), watch)
    assert any("torn or damaged" in text for text in watch.said)
    assert_same_end(tmp_path, undisturbed)


def test_another_recipe_is_refused_with_what_differs(undisturbed):
    before = sorted(path.name for path in undisturbed.rglob("*"))
    with pytest.raises(UsageError, match=r"another recipe \(lr: 0.001 -> 0.002; epochs: 2 -> 3\)|"
                                         r"epochs: 2 -> 3; lr: 0.001 -> 0.002"):
        jobs.train(jobs.job(undisturbed, lr=2e-3, epochs=3))
    with pytest.raises(UsageError, match="arch: timm:test_efficientnet -> timm:test_vit"):
        jobs.train(jobs.job(undisturbed, arch="timm:test_vit"))
    with pytest.raises(UsageError, match="leave out --no-resume"):
        jobs.train(jobs.job(undisturbed, resume=False))
    assert sorted(path.name for path in undisturbed.rglob("*")) == before


def test_a_finished_run_is_not_trained_again(undisturbed):
    watch = jobs.Watch()
    found = jobs.train(jobs.job(undisturbed), watch)
    assert any("Finished already" in text for text in watch.said)
    assert watch.losses == []
    assert len({r.coords["epoch"] for r in found}) == 2


def test_two_runs_may_not_share_a_folder(tmp_path):
    child = jobs.start(jobs.job(tmp_path, epochs=50))
    try:
        for _ in range(600):
            if (tmp_path / "args.toml").exists():
                break
            time.sleep(0.05)
        with pytest.raises(UsageError, match="Another run is at work"):
            jobs.train(jobs.job(tmp_path))
    finally:
        child.kill()
        child.join()


def test_a_run_goes_on_from_one_process_in_two(tmp_path, undisturbed):
    assert jobs.run(jobs.job(tmp_path, minutes=0.0), end="KILL", at=2)[0] == -signal.SIGKILL
    answers = jobs.together(jobs.job(tmp_path))
    assert [code for code, _ in answers] == [0, 0], answers
    for name, tensor in jobs.weights(undisturbed)["state_dict"].items():
        if tensor.is_floating_point() and "running" not in name:  # statistics are those of the first process
            torch.testing.assert_close(jobs.weights(tmp_path)["state_dict"][name], tensor, rtol=1e-3, atol=1e-4)
