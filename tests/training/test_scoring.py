"""Scoring checkpoints: ours, averaged, official, of timm; and one line for what does not fit."""

from __future__ import annotations

import pytest
import torch
from training import jobs
from training.test_sources import folder

from softbench import models
from softbench.errors import ResultsError, UsageError
from softbench.models import checkpoints
from softbench.training.scoring import Scoring, score


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out, watch = tmp_path_factory.mktemp("run"), jobs.Watch()
    jobs.train(jobs.job(out), watch)
    return next((out / "checkpoints").glob("step-00000006-*")), watch.epochs[-1]


def scores(path, **changes):
    found = score(Scoring(path, **({"data": "digits", "limit": 100, "threads": 1} | changes)))
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
                                 "checkpoint": path.name}
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
    found = score(Scoring(run[0], str(tmp_path / "data"), threads=1, out=tmp_path / "file"), said.append)
    assert (found[0].coords["images"], found[0].detail["bad_images"]) == (19, 1)
    assert len(said) == 1
    assert said[0].startswith("Warning: Cannot write")
