"""Scoring checkpoints: ours, averaged, official, of timm; and one line for what does not fit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tasks.images.test_sources import folder
from timm.data import create_transform, resolve_data_config
from training import jobs

from softbench import models
from softbench.errors import ResultsError, SoftbenchError, UsageError
from softbench.inputs import captured
from softbench.models import checkpoints
from softbench.tasks.images.preparing import Prepared
from softbench.training.scoring import score


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out, watch = tmp_path_factory.mktemp("run"), jobs.Watch()
    jobs.train(jobs.job(out), watch)
    return next((out / "checkpoints").glob("step-00000006-*")), watch.epochs[-1]


def scores(path, **changes):
    found = score(jobs.scoring(path, **changes))
    return {record.quantity: record.value for record in found}, found


@pytest.mark.parametrize(("weights", "suffix"), [("model", ""), ("ema", "_ema")])
def test_scores_are_those_of_training(run, weights, suffix):
    path, numbers = run
    found, records = scores(path, weights=weights, batch=7)
    assert (found["top1"], found["top5"]) == (numbers[f"top1{suffix}"], numbers[f"top5{suffix}"])
    assert found["loss"] == pytest.approx(numbers[f"loss{suffix}"], rel=1e-5)
    assert found["images_per_second"] > 0
    assert records[0].measure == "eval"
    assert records[0].coords == {"data": "digits", "weights": weights, "classes": 10, "images": 100,
                                 "checkpoint": path.name, "digest": records[0].coords["digest"]}
    assert records[0].detail["epochs_done"] == 2


def test_the_best_weights_are_scored_unless_told_otherwise(run):
    best = torch.load(run[0], weights_only=True)["position"]["best"]["weights"]
    assert scores(run[0])[1][0].coords["weights"] == {"state_dict": "model", "state_dict_ema": "ema"}[best]


def test_official_weights(tmp_path):
    model = models.create("soft-tiny", num_classes=10, official=True)
    torch.save({"state_dict_ema": checkpoints.to_official(model)}, tmp_path / "official.pth")
    found, records = scores(tmp_path / "official.pth", arch="soft-tiny", img_size=32, limit=8)
    assert 0 <= found["top1"] <= found["top5"] <= 1
    assert records[0].coords["weights"] == "official"
    assert records[0].options["sampling"] == "conv_ratio"


@pytest.fixture
def photographs(tmp_path):
    """Seeded noise of two classes, dark and light, in other shapes than models take."""
    generator = np.random.default_rng(0)
    for name, level in (("cat", 60), ("dog", 180)):
        (tmp_path / "data" / "val" / name).mkdir(parents=True)
        for i in range(4):
            noise = generator.normal(level, 50, (50 + 9 * i, 70, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(tmp_path / "data" / "val" / name / f"{i}.png")
    return tmp_path / "data"


def peer(name, path):
    """A model of timm that sees a difference between pictures, and its weights in a file."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=2).eval()
    torch.nn.init.normal_(model.get_classifier().weight, std=3.0)
    torch.save(model.state_dict(), path)
    return model


def by_timm(model, data, **changes):
    """The mean loss over a validation split by timm's own preprocessing."""
    transform = create_transform(**resolve_data_config({}, model=model) | changes)
    images = [(transform(Image.open(path).convert("RGB")), label) for label, name in enumerate(("cat", "dog"))
              for path in sorted((data / "val" / name).iterdir())]
    with torch.no_grad():
        logits = model(torch.stack([image for image, _ in images]))
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor([label for _, label in images])))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_mambaout", "test_efficientnet"])
def test_weights_of_timm_are_scored_as_timm_scores_them(tmp_path, photographs, name):
    """The models differ in mean, standard deviation, interpolation and crop."""
    model = peer(name, tmp_path / "x.pt")
    said: list[str] = []
    found = score(jobs.scoring(tmp_path / "x.pt", data=str(photographs), limit=None, arch=f"timm:{name}"), said.append)
    loss = next(record.value for record in found if record.quantity == "loss")
    assert loss == pytest.approx(by_timm(model, photographs), rel=1e-4)
    config = resolve_data_config({}, model=model)
    assert found[0].detail["prepared"]["mean"] == config["mean"]
    assert (found[0].rows, found[0].cols) == (160, 160)
    assert f"160 x 160 pixels, {config['interpolation']}, center crop {config['crop_pct']:g}, mean" in said[0]


def test_flags_go_before_what_timm_does(tmp_path, photographs):
    model = peer("test_resnet", tmp_path / "x.pt")
    usual = by_timm(model, photographs)
    for given, changes in (({"img_size": 96}, {"input_size": (3, 96, 96)}), ({"crop": 0.5}, {"crop_pct": 0.5}),
                           ({"mean": (0.1, 0.2, 0.3)}, {"mean": (0.1, 0.2, 0.3)}),
                           ({"std": (0.2, 0.3, 1)}, {"std": (0.2, 0.3, 1)}),
                           ({"interpolation": "nearest"}, {"interpolation": "nearest"})):
        found, records = scores(tmp_path / "x.pt", data=str(photographs), limit=None, arch="timm:test_resnet", **given)
        expected = by_timm(model, photographs, **changes)
        assert found["loss"] == pytest.approx(expected, rel=1e-4)
        assert abs(expected - usual) > 1e-3 * usual, "this case could not fail"
    assert records[0].detail["prepared"]["interpolation"] == "nearest"


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_each_of_timms_crops_gives_its_pixels(photographs, mode):
    ours = Prepared((40, 60), 0.9, "bilinear", mode, (0.1, 0.5, 0.9), (0.5, 0.6, 0.7))
    theirs = create_transform((3, 40, 60), interpolation="bilinear", crop_pct=0.9, crop_mode=mode, mean=ours.mean,
                              std=ours.std)
    image = Image.open(photographs / "val" / "cat" / "0.png")
    torch.testing.assert_close(ours.normalised(ours.transform()(image)[None], torch.device("cpu"))[0], theirs(image),
                               rtol=1e-5, atol=1e-5)


def test_classes_of_the_data_are_those_of_the_checkpoint(tmp_path):
    names = ["cat", "dog", "10", "2", "a", "A", "01", "1", "x", "y"]
    data = folder(tmp_path / "data", dict.fromkeys(names, 8), dict.fromkeys(names, 4))
    watch = jobs.Watch()
    jobs.train(jobs.job(tmp_path / "run", data=str(data), limit=None, epochs=1, total_batch=16, batch=16), watch)
    path = tmp_path / "run" / "checkpoints" / "best.pt"
    kept = torch.load(path, weights_only=True)["class_names"]
    assert kept == ["01", "1", "2", "10", "A", "a", "cat", "dog", "x", "y"]
    assert scores(path, data=str(data), limit=None, weights="model")[0]["top1"] == watch.epochs[0]["top1"]
    (data / "val" / "dog").rename(data / "val" / "ardvark")
    with pytest.raises(UsageError, match="only the data has ardvark; only the checkpoint has dog"):
        scores(path, data=str(data), limit=None)
    (tmp_path / "map.txt").write_text("01\n1\n2\n10\nA\na\ncat\nardvark\nx\ny\n")
    found, _ = scores(path, data=str(data), limit=None, weights="model", class_map=str(tmp_path / "map.txt"))
    assert found["top1"] == watch.epochs[0]["top1"]


def test_a_state_dict_of_timm(tmp_path):
    torch.save(models.create("timm:test_vit", num_classes=10, img_size=160).state_dict(), tmp_path / "vit.pt")
    found, records = scores(tmp_path / "vit.pt", arch="timm:test_vit", img_size=160, limit=8)
    assert found["loss"] > 0
    assert records[0].coords["weights"] == "model"


def test_what_does_not_fit(run, tmp_path):
    path = run[0]
    bare = {"head.weight": torch.zeros(10, 4)}
    torch.save(bare, tmp_path / "bare.pt")
    torch.save({"trunk.weight": torch.zeros(3)}, tmp_path / "headless.pt")
    torch.save(torch.load(path, weights_only=True)["state_dict"], tmp_path / "other.pt")
    (tmp_path / "torn.pt").write_bytes(path.read_bytes()[:1000])
    for checkpoint, keys, error, said in (
            (path, {"arch": "soft-tiny"}, UsageError, "a checkpoint of timm:test_efficientnet, not of soft-tiny"),
            (path, {"options": {"landmarks": "4"}}, UsageError, "leave out --set"),
            (tmp_path / "bare.pt", {}, UsageError, "give --arch"),
            (tmp_path / "bare.pt", {"arch": "soft-tiny"}, UsageError, "do not fit this model"),
            (tmp_path / "bare.pt", {"arch": "soft-tiny", "weights": "ema"}, UsageError, "holds no averaged weights"),
            (tmp_path / "headless.pt", {"arch": "soft-tiny"}, UsageError, "holds no classifier"),
            (tmp_path / "other.pt", {"arch": "timm:test_vit"}, UsageError, "does not fit timm:test_vit"),
            (tmp_path / "torn.pt", {}, ResultsError, "is not a checkpoint, or is torn"),
            (tmp_path / "none.pt", {}, ResultsError, "Cannot read .*none.pt: No such file")):
        with pytest.raises(error, match=said):
            scores(checkpoint, **keys)


def test_a_list_of_bad_images_that_cannot_be_written_costs_no_score(run, tmp_path):
    folder(tmp_path / "data", {str(i): 1 for i in range(10)}, {str(i): 2 for i in range(10)})
    (tmp_path / "data" / "val" / "3" / "0.jpg").write_bytes(b"not a picture")
    (tmp_path / "file").write_text("")
    said: list[str] = []
    found = score(jobs.scoring(run[0], data=str(tmp_path / "data"), limit=None, out=tmp_path / "file"), said.append)
    assert (found[0].coords["images"], found[0].detail["bad_images"]) == (19, 1)
    assert [text.partition(":")[0] for text in said] == ["Evaluation", "Warning"]
    assert said[1].startswith("Warning: Cannot write")


EVIL = """from softbench.attention.softmax import *
from pathlib import Path
Path("evil-was-here").touch()
"""


def test_a_checkpoint_never_says_which_code_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(EVIL)
    jobs.train(jobs.job(Path("run"), arch="softmax-tiny", epochs=1, limit=32))
    found = jobs.weights(Path("run"))
    torch.save(found | {"arch": "./evil.py-tiny", "run": found["run"] | {"arch": "evil-tiny"}}, "evil.pt")
    torch.save({"arch": "./evil.py-tiny", "state_dict": found["state_dict"]}, "bare.pt")
    with pytest.raises(UsageError, match=r"attention in a file, \./evil\.py-tiny.*give --arch \./evil\.py-tiny"):
        scores(Path("evil.pt"))
    with pytest.raises(UsageError, match="give --arch"):
        scores(Path("bare.pt"))
    for name in ("evil.pt", "bare.pt"):
        with pytest.raises(UsageError, match=rf"if you trust that file, write \./evil\.py-tiny={name}@stage1"):
            captured.check(f"{name}@stage1")
    assert not Path("evil-was-here").exists()
    scores(Path("evil.pt"), arch="./evil.py-tiny", limit=4)
    assert Path("evil-was-here").exists()


ODD: list[Any] = [None, True, -1, 0, 10**30, 1e300, float("nan"), "", "\udcff", "x" * 5000, "./evil.py-tiny", b"bytes",
                  "timm:hf-hub:timm/resnet18", "timm:local-dir:.", "soft-tiny", [], [1], (1, 2), {}, {"a": [1]}, {1: 2},
                  torch.zeros(()), torch.zeros(3), torch.zeros(10, 2), torch.zeros(1).expand(1 << 40),
                  torch.empty(10, 4, device="meta"), torch.eye(3).to_sparse(),
                  torch.zeros(10, dtype=torch.complex64)]


def spoilt(state: Any, draw: random.Random) -> Any:
    """The same with one odd value somewhere, or something missing."""
    if not isinstance(state, dict) or not state or draw.random() < 0.15:
        return draw.choice(ODD)
    key = draw.choice(sorted(state, key=str))
    if draw.random() < 0.15:
        return {name: value for name, value in state.items() if name != key}
    return {**state, key: spoilt(state[key], draw)}


@pytest.mark.filterwarnings("ignore")  # torch's, about sparse and complex tensors
def test_odd_things_in_a_checkpoint_are_one_line_each(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(EVIL)
    draw, told = random.Random(0), []
    whole = torch.load(run[0], weights_only=True)
    whole = {name: whole[name] for name in ("run", "arch", "options", "position", "state_dict", "state_dict_ema")}
    for _ in range(80):
        torch.save(spoilt(whole, draw), "odd.pt")
        try:
            found = score(jobs.scoring(Path("odd.pt"), limit=4))
            assert all(record.to_json() for record in found)
        except SoftbenchError as error:
            told.append(str(error))
    assert len(told) > 40
    assert not [text for text in told if "\n" in text or len(text) > 600]
    assert not Path("evil-was-here").exists()


def test_numbers_in_a_file_ask_for_no_memory(run, tmp_path):
    whole = torch.load(run[0], weights_only=True)
    wide = whole | {"state_dict": whole["state_dict"] | {"classifier.weight": torch.zeros(1, 1).expand(1 << 40, 4)}}
    torch.save(wide | {"state_dict_ema": wide["state_dict"]}, tmp_path / "wide.pt")
    with pytest.raises(UsageError, match=r"classifier.weight in this checkpoint is not a plain tensor"):
        scores(tmp_path / "wide.pt")
    vast = whole | {"arch": "performer-tiny", "options": {"features": 1 << 40},
                    "run": whole["run"] | {"arch": "performer-tiny", "img_size": 64}}
    vast["state_dict"] = vast["state_dict_ema"] = models.create("performer-tiny", num_classes=10).state_dict()
    torch.save(vast, tmp_path / "vast.pt")
    with pytest.raises(UsageError, match=r"asks for a model that cannot be|do not fit this model|must be at most"):
        scores(tmp_path / "vast.pt")
