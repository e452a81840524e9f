"""Fingerprints: the same data wherever they lie and however they are packed; others of the same name are told apart."""

from __future__ import annotations

import shutil

import pytest
import torch
from tasks.images.test_folders import filled, packed
from training import jobs

from softbench.contracts.recipe import digest
from softbench.errors import UsageError
from softbench.tasks.images import fingerprint, sources
from softbench.tasks.images.sources import open_source

FILES = [f"{split}/{name}/{i}.bmp" for split in ("train", "val") for name in ("cat", "dog") for i in range(16)]


def taken(data, **keys):
    return fingerprint.of(open_source(str(data), **keys))


def test_the_same_data_have_the_same_wherever_they_lie(tmp_path):
    one = taken(filled(tmp_path / "one", *FILES))
    shutil.copytree(tmp_path / "one", tmp_path / "other" / "name")
    (tmp_path / "tars").mkdir()
    for split in ("train", "val"):
        packed(tmp_path / "one" / split, tmp_path / "tars" / f"{split}.tar")
    for same in (tmp_path / "other" / "name", tmp_path / "tars"):
        assert taken(same) == one
        assert digest(taken(same)) == digest(one)
    assert fingerprint.changes(one, one) == []
    assert taken("digits") == taken("digits") != one


@pytest.mark.parametrize(("change", "said"), [
    ("classes", "classes: cat, dog -> cat, ox"), ("more", "images in train: 32 -> 33"),
    ("names", "names or labels of files in val"), ("labels", "classes: cat, dog -> dog, cat"),
    ("pictures", "31 of 32 pictures looked at in train"), ("sizes", "32 of 32 pictures looked at in val"),
])
def test_other_data_are_told_apart(tmp_path, change, said):
    data, keys = filled(tmp_path / "data", *FILES), {}
    before = taken(data)
    if change == "classes":
        for split in ("train", "val"):
            (data / split / "dog").rename(data / split / "ox")
    elif change == "more":
        shutil.copy(data / "train/cat/1.bmp", data / "train/cat/new.bmp")
    elif change == "names":
        (data / "val/cat/1.bmp").rename(data / "val/cat/new.bmp")
    elif change == "labels":
        (tmp_path / "map.txt").write_text("dog\ncat")
        keys = {"class_map": str(tmp_path / "map.txt"), "classes": 2}
    elif change == "pictures":  # of the same sizes under the same names; one is no other than before
        paths = [data / name for name in FILES if name.startswith("train")]
        for path in paths[1:]:
            path.write_bytes(path.read_bytes()[:-1] + b"\7")
    else:
        for name in FILES:
            if name.startswith("val"):
                (data / name).write_bytes((data / name).read_bytes() + b"\0")
    assert fingerprint.changes(before, taken(data, **keys)) == [said]


def test_a_few_repaired_pictures_are_no_other_data(tmp_path):
    data = filled(tmp_path / "data", *FILES)
    before = taken(data)
    for i in range(4):
        (data / f"train/cat/{i}.bmp").write_bytes(b"not any more")
    assert fingerprint.changes(before, taken(data)) == []
    (data / "train/dog/1.bmp").write_bytes(b"not any more")
    assert fingerprint.changes(before, taken(data)) == ["5 of 32 pictures looked at in train"]


def test_large_splits_are_looked_at_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "_LOOKED_AT", 10)
    data = filled(tmp_path / "data", *FILES)
    assert len(taken(data)["train"]["looked_at"]) == 8  # every fourth


def test_streams_and_data_without_names_have_one(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: True)

    class Streaming:
        class reader:
            num_samples = 96

    monkeypatch.setattr(sources, "create_dataset", lambda *names, **keys: Streaming())
    found = taken("wds:shards", classes=4)
    assert (found["classes"], found["train"]["images"]) == (None, 96)
    assert fingerprint.changes(found, found) == []


@pytest.mark.parametrize("classes", [("cat", "dog"), ("lorry", "tree"), ("lorry", "tree", "ship")])
def test_a_run_does_not_take_other_data_of_the_same_name_for_its_own(tmp_path, classes):
    """The default --out is named after the folder of the data."""
    one = filled(tmp_path / "one" / "images", *FILES)
    other = filled(tmp_path / "two" / "images", *[f"{split}/{name}/{i}.png" for split in ("train", "val")
                                                  for name in classes for i in range(16)])
    asked = jobs.job(tmp_path / "run", data=str(one), limit=None, epochs=1)
    found = jobs.train(asked)
    with pytest.raises(UsageError, match=r"has other images .* another --out"):
        jobs.train(jobs.job(tmp_path / "run", data=str(other), limit=None, epochs=1))
    more = jobs.train(jobs.job(tmp_path / "elsewhere", data=str(other), limit=None, epochs=1))
    assert found[0].coords["run"] != more[0].coords["run"]
    again = jobs.Watch()
    shutil.move(tmp_path / "one", tmp_path / "moved")
    jobs.train(jobs.job(tmp_path / "run", data=str(tmp_path / "moved" / "images"), limit=None, epochs=1), again)
    assert any("Finished already" in text for text in again.said)


def test_a_run_from_before_fingerprints_goes_on_under_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr("softbench.training.plan.Plan._same_data", lambda plan, found: None)
    asked = jobs.job(tmp_path, epochs=1, limit=64)
    found = jobs.train(asked)
    monkeypatch.undo()
    assert jobs.weights(tmp_path)["data"] is None
    again = jobs.Watch()
    assert [r.coords["run"] for r in jobs.train(asked, again)] == [r.coords["run"] for r in found]
    assert torch.is_tensor(next(iter(jobs.weights(tmp_path)["state_dict"].values())))
