"""The whole job: what it writes, on real files, with bad images, on a full disk, and that it learns."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from training import jobs

from softbench import records
from softbench.errors import ResultsError, UsageError
from softbench.tasks.images import data
from softbench.tasks.images.data import EVALUATION, Images
from softbench.tasks.images.lesson import ImageTask
from softbench.tasks.images.recipe import Recipe
from softbench.tasks.images.sources import Split
from softbench.training import checkpoint, journal
from softbench.training.distributed import Group
from softbench.training.journal import Unreadable


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out, watch = tmp_path_factory.mktemp("run"), jobs.Watch()
    return out, watch, jobs.train(jobs.job(out), watch)


def test_records_of_each_epoch(run):
    out, watch, found = run
    assert records.read(out / "records.jsonl") == (found, [])
    frame = records.to_frame(found)
    table = frame.pivot(index="epoch", columns="quantity", values="value")
    assert list(table.index) == [1, 2]
    assert set(table.columns) == {"train_loss", "lr", "loss", "top1", "top5", "loss_ema", "top1_ema", "top5_ema",
                                  "images_per_second", "peak_memory"}
    assert table["train_loss"][1] == pytest.approx(sum(watch.losses[:3]) / 3)
    assert table["lr"][2] == watch.rates[-1]
    assert ((table["top1"] >= 0) & (table["top1"] <= table["top5"]) & (table["top5"] <= 1)).all()
    one = found[0]
    assert (one.measure, one.model, one.label, one.mode) == ("train", jobs.ARCH, jobs.ARCH, "forward_backward")
    coords = {"data": "digits", "epochs": 2, "total_batch": 32, "classes": 10, "images": 100}
    assert coords.items() <= one.coords.items()
    assert one.detail["settings"]["mixup"] == 0.8
    assert (one.detail["devices"], one.detail["accumulated"]) == (1, 2)
    assert one.detail["first_step_seconds"] > 0
    assert 0 <= one.detail["waited_share"] < 1
    assert {r.quantity: r.unit for r in found} | {"lr": "1"} == dict.fromkeys(table.columns, "1") | {
        "images_per_second": "image/s", "peak_memory": "B"}


def test_what_else_it_writes(run):
    out, _, found = run
    lines = list(csv.DictReader(io.StringIO((out / "summary.csv").read_text())))
    assert [line["epoch"] for line in lines] == ["1", "2"]
    assert float(lines[1]["top1"]) == next(r.value for r in found if r.quantity == "top1" and r.coords["epoch"] == 2)
    args = tomllib.loads((out / "args.toml").read_text())
    assert args["job"]["arch"] == jobs.ARCH
    assert args["recipe"]["total_batch"] == 32
    assert set(args["recipe"]) == set(Recipe.__dataclass_fields__)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "args.toml", "checkpoints", "records.jsonl",
                                                           "summary.csv"]
    names = sorted(path.name[:13] for path in (out / "checkpoints").iterdir())
    assert names == ["best.pt", "step-00000003", "step-00000006"]


def test_the_best_checkpoint_is_that_of_the_best_epoch(run):
    out, watch, _ = run
    best = torch.load(out / "checkpoints" / "best.pt", weights_only=True)["position"]["best"]
    tops = [max((numbers["top1"], "state_dict"), (numbers["top1_ema"], "state_dict_ema"), key=lambda pair: pair[0])
            for numbers in watch.epochs]
    epoch = max(range(2), key=lambda i: tops[i][0])
    assert best == {"top1": tops[epoch][0], "epoch": epoch + 1, "weights": tops[epoch][1]}


def test_how_the_total_batch_was_reached_is_said(run):
    assert "Total batch 32 = 16 images x 1 device x 2 accumulated; 3 steps an epoch, 2 epochs" in run[1].said


def test_an_attention_of_ours_with_options(tmp_path):
    found = jobs.train(jobs.job(tmp_path, arch="performer-tiny", options={"features": "16"}, epochs=1, limit=32))
    assert (found[0].model, found[0].label) == ("performer-tiny", "performer-tiny:features=16")
    assert (found[0].attention, found[0].options["features"], found[0].impl) == ("performer", 16, "eager")
    assert jobs.weights(tmp_path)["run"]["options"] == "features=16"


def imagenet(root: Path, classes: int = 1000, size: tuple[int, int] = (40, 30)) -> Path:
    """A folder like ImageNet's: two JPEGs of each class to train on, one to evaluate."""
    for split, count in (("train", 2), ("val", 1)):
        for label in range(classes):
            folder = root / split / f"n{label:08d}"
            folder.mkdir(parents=True)
            for i in range(count):
                image = Image.new("RGB", size, (label % 256, label // 4 % 256, 50 * i))
                image.save(folder / f"{label}_{i}.JPEG")
    return root


def test_a_folder_of_a_thousand_classes_trains_and_evaluates(tmp_path):
    out, data = tmp_path / "run", imagenet(tmp_path / "imagenet")
    watch = jobs.Watch()
    found = jobs.train(jobs.job(out, data=str(data), limit=None, total_batch=1000, batch=50, epochs=1, workers=1,
                                smoothing=0.1), watch)
    assert any("1,000 classes" in text for text in watch.said)
    assert len(watch.losses) == 2
    assert 6 < watch.losses[0] < 9  # log 1000 = 6.9
    assert {r.coords["images"] for r in found} == {1000}
    assert {r.coords["data"] for r in found} == {"imagenet"}
    assert jobs.weights(out)["state_dict"]["classifier.weight"].shape[0] == 1000


def broken(tmp_path: Path) -> Path:
    data = imagenet(tmp_path / "data", classes=20)
    (data / "train" / "n00000003" / "3_0.JPEG").write_bytes(b"not a picture")
    whole = (data / "train" / "n00000005" / "5_1.JPEG").read_bytes()
    (data / "train" / "n00000005" / "5_1.JPEG").write_bytes(whole[:len(whole) // 2])
    (data / "val" / "n00000007" / "7_0.JPEG").write_bytes(b"")
    return data


def test_bad_images_are_counted_and_named_once(tmp_path):
    out = tmp_path / "run"
    found = jobs.train(jobs.job(out, data=str(broken(tmp_path)), limit=None, total_batch=40, batch=20, epochs=2))
    assert sorted((out / "bad-images.txt").read_text().split()) == [
        "train/n00000003/3_0.JPEG", "train/n00000005/5_1.JPEG", "val/n00000007/7_0.JPEG"]
    assert {r.coords["images"] for r in found} == {19}
    assert found[0].detail["bad_images"] == 2


def test_a_bad_image_that_was_named_before_a_kill_is_not_named_again(tmp_path):
    def gone(*args, **keys):
        raise KeyboardInterrupt

    asked = jobs.job(tmp_path / "run", data=str(broken(tmp_path)), limit=None, total_batch=40, batch=20, epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", gone)
        with pytest.raises(KeyboardInterrupt):
            jobs.train(asked)
    named = tmp_path / "run" / "bad-images.txt"
    whole = named.read_text()
    named.write_text(whole[:-5])  # as a kill may leave it
    jobs.train(asked)
    assert sorted(named.read_text().split()) == sorted([*whole.split(), whole[:-5].split()[-1]])


def test_a_bad_image_of_any_name_can_be_named(tmp_path):
    class Reader:
        def filename(self, index):
            return b"caf\xe9.jpg".decode("utf-8", "surrogateescape")  # as Python reads names that are not UTF-8

    lesson = SimpleNamespace(name=lambda split, index: Split(Reader(), 1).name(index))
    Unreadable(lesson, "val", "image", tmp_path / "new", 1, Group(0, 1, torch.device("cpu")), [], print).note([0])
    assert (tmp_path / "new" / "bad-images.txt").read_bytes() == b"val/caf\xe9.jpg\n"


def test_too_many_bad_images_end_the_job(tmp_path):
    with pytest.raises(ResultsError, match=r"2 images of train cannot be read, more than --max-bad 1; .*bad-images"):
        jobs.train(jobs.job(tmp_path / "run", data=str(broken(tmp_path)), limit=None, total_batch=40, batch=20,
                            max_bad=1))


def test_a_checkpoint_that_cannot_be_written_ends_the_job_and_the_next_start_goes_on(tmp_path, monkeypatch):
    real, calls = checkpoint.os.fsync, []

    def full(handle):
        calls.append(1)
        if len(calls) == 4:  # each checkpoint is synced twice, the file and its folder; records are not counted here
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(ResultsError, match="No space left on device"):
        jobs.train(jobs.job(tmp_path, minutes=0.0))
    monkeypatch.undo()
    watch = jobs.Watch()
    jobs.train(jobs.job(tmp_path), watch)
    assert any("Going on" in text for text in watch.said)
    assert jobs.weights(tmp_path)["position"]["epoch"] == 2


@pytest.mark.parametrize("name", ["args.toml", "summary.csv", "bad-images.txt"])
def test_a_side_file_that_cannot_be_written_costs_nothing_else(tmp_path, name):
    """A folder stands in its place, which not even root can write into as a file."""
    (tmp_path / "run" / name).mkdir(parents=True)
    watch = jobs.Watch()
    found = jobs.train(jobs.job(tmp_path / "run", data=str(broken(tmp_path)), limit=None, total_batch=40, batch=20),
                       watch)
    assert {record.coords["epoch"] for record in found} == {1, 2}
    assert records.read(tmp_path / "run" / "records.jsonl") == (found, [])
    assert jobs.weights(tmp_path / "run")["position"]["epoch"] == 2
    said = [text for text in watch.said if text.startswith("Warning: Cannot write") and name in text]
    assert said
    assert all("The work goes on without it." in text for text in said)


def test_a_curve_that_cannot_be_drawn_costs_nothing_else(tmp_path, monkeypatch):
    class Board:
        def add_scalar(self, *numbers):
            raise OSError(28, "No space left on device")

        flush = close = add_scalar

    monkeypatch.setattr(journal, "tensorboard", lambda folder: Board())
    watch = jobs.Watch()
    found = jobs.train(jobs.job(tmp_path, tensorboard=True, epochs=1), watch)
    assert {record.quantity for record in found} >= {"top1", "train_loss"}
    assert any("No space left on device" in text for text in watch.said)


@pytest.mark.parametrize("text", ["Fotos \U0001f4f7", 'a"b\\c', "one\ntwo\r\ttab", "\x00\x07\x1b\x7f\x85\u2028", '"""',
                                  "\u00e9", "\\u0041"])
def test_args_are_toml_whatever_they_hold(text):
    assert tomllib.loads(journal.toml({"job": {"data": text}}))["job"]["data"] == text


def test_args_spell_what_toml_cannot_hold():
    table = {"path": b"caf\xe9".decode("utf-8", "surrogateescape"), "high": float("inf"), "none": None, "lr": 1e-05,
             "on": True, "count": 2**70}
    found = tomllib.loads(journal.toml({"job": table}))["job"]
    assert found == {"path": "caf\\udce9", "high": float("inf"), "lr": 1e-05, "on": True, "count": 2**70}


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("softbench.training.job.fcntl.flock", no_locks)
    with pytest.raises(ResultsError, match=r"Cannot lock .*: Function not implemented.* --out"):
        jobs.train(jobs.job(tmp_path))


def test_a_loader_that_is_killed_during_evaluation_is_said(tmp_path, monkeypatch):
    """As the kernel does where memory runs out."""
    parent, real = os.getpid(), Images.__getitem__

    def killed(images, key):
        if key[0] == EVALUATION and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(images, key)

    monkeypatch.setattr(Images, "__getitem__", killed)
    with pytest.raises(ResultsError, match=r"loads images was killed.* --workers"):
        jobs.train(jobs.job(tmp_path, workers=1))
    assert not (tmp_path / "records.jsonl").exists()


def test_where_shared_memory_is_full_images_come_through_the_pipe(tmp_path, monkeypatch, run):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    found = jobs.train(jobs.job(tmp_path, workers=2))
    assert {r.quantity: r.value for r in found if "top" in r.quantity} == {
        r.quantity: r.value for r in run[2] if "top" in r.quantity}


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, to mount a small /dev/shm")
def test_a_small_shared_memory_hangs_nothing(tmp_path):
    """Docker gives 64 MB; here it is one, and a batch is larger."""
    script = ("import sys; from pathlib import Path; from training import jobs\n"
              "jobs.train(jobs.job(Path(sys.argv[1]), workers=2, epochs=1, total_batch=64, batch=64, img_size=128))")
    mounted = "mount -t tmpfs -o size=1m tmpfs /dev/shm || exit 77; exec \"$@\""
    done = subprocess.run(["unshare", "-m", "bash", "-c", mounted, "-", sys.executable, "-c", script, str(tmp_path)],
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                          capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("may not mount here")
    assert done.returncode == 0, done.stderr
    assert len(records.read(tmp_path / "records.jsonl")[0]) > 5


def test_processes_that_cannot_begin_are_one_line(tmp_path, monkeypatch):
    def none_left(process):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(data._Worker, "start", none_left)
    with pytest.raises(ResultsError, match=r"Cannot start the processes that load images: Resource temp.*--workers"):
        jobs.train(jobs.job(tmp_path, workers=1))


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"Cannot write into .* Choose another folder with --out"):
        jobs.train(jobs.job(tmp_path / "file" / "run"))


def test_tensorboard_is_an_option(tmp_path, monkeypatch):
    monkeypatch.setattr(journal.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install tensorboard"):
        jobs.train(jobs.job(tmp_path, tensorboard=True))
    written = []

    class Board:
        def add_scalar(self, *numbers):
            written.append(numbers)

        def flush(self):
            pass

        close = flush

    monkeypatch.setattr(journal, "tensorboard", lambda folder: Board())
    jobs.train(jobs.job(tmp_path, tensorboard=True, epochs=1))
    assert {name for name, _, epoch in written if epoch == 1} >= {"top1", "train_loss", "lr"}


def test_a_slow_loader_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("softbench.training.run._SLOW_LOADER", 0.0)
    watch = jobs.Watch()
    jobs.train(jobs.job(tmp_path, epochs=1), watch)
    assert any("went by waiting for images; raise --workers" in text for text in watch.said)


def test_a_folder_goes_by_its_own_name(tmp_path):
    assert ImageTask(str(tmp_path)).title == tmp_path.name
    assert ImageTask("digits").title == "digits"


def test_it_learns(tmp_path):
    """Digits, by a small model, in two epochs: 0.9 of them are right then."""
    plain = {"mixup": 0, "cutmix": 0, "augment": "", "erasing": 0, "hflip": 0, "drop_path": 0}
    found = jobs.train(jobs.job(tmp_path, arch="timm:test_efficientnet", limit=None, total_batch=64, batch=64, epochs=2,
                                **plain))
    assert found[-1].coords["epoch"] == 2
    assert max(r.value for r in found if r.quantity in ("top1", "top1_ema")) > 0.6
