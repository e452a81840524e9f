"""Sources of images: what each kind of data gives, and one clear line for each that is not as it must be."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from PIL import Image

from softbench.errors import UsageError
from softbench.training import sources
from softbench.training.sources import open_source


def folder(root: Path, train: dict[str, int], val: dict[str, int]) -> Path:
    """Class folders with so many small pictures each."""
    for split, classes in (("train", train), ("val", val)):
        for number, (name, count) in enumerate(classes.items()):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.new("RGB", (20, 16), (number * 40, i * 20, 0)).save(root / split / name / f"{i}.jpg")
    return root


def test_a_folder(tmp_path):
    source = open_source(str(folder(tmp_path, {"cat": 3, "dog": 2}, {"cat": 1, "dog": 1})))
    assert source.classes == 2
    assert source.train.labels == [0, 0, 0, 1, 1]
    assert source.train.name(3) == "dog/0.jpg"
    assert (source.train.size, source.val.size) == (5, 2)
    with source.val.reader[1][0] as file:
        assert Image.open(file).size == (20, 16)


def test_a_tar_of_class_folders(tmp_path):
    folder(tmp_path / "plain", {"cat": 3, "dog": 2}, {"cat": 1, "dog": 1})
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}.tar", "w") as tar:
            for name in ("cat", "dog"):
                tar.add(tmp_path / "plain" / split / name, name)
    source = open_source(str(tmp_path))
    assert list(source.train.labels) == [0, 0, 0, 1, 1]
    with source.train.reader[4][0] as file:
        assert Image.open(file).size == (20, 16)
    source.train.reader.tar_state.tf.close()


def test_evaluation_needs_no_training_images(tmp_path):
    folder(tmp_path, {}, {"cat": 1, "dog": 1})
    assert open_source(str(tmp_path), training=False).train is None


def test_digits_hold_360_out_of_all_classes():
    source = open_source("digits")
    assert (source.train.size, source.val.size, source.classes) == (1437, 360, 10)
    assert {label: source.val.labels.count(label) >= 34 for label in range(10)} == dict.fromkeys(range(10), True)
    image, label = source.train.reader[0]
    assert (image.mode, image.size, label) == ("RGB", (8, 8), source.train.labels[0])
    assert image.getextrema()[0] == (0, 255)


def test_synthetic_images_are_of_imagenets_kind_and_repeat():
    source = open_source("synthetic")
    assert (source.train.size, source.val.size, source.classes) == (1_281_167, 50_000, 1000)
    one, label = source.train.reader[1234]
    assert (one.size, label) == ((500, 375), 234)
    assert one.tobytes() == source.train.reader[1234][0].tobytes() != source.val.reader[1234][0].tobytes()
    assert open_source("synthetic", classes=10).train.reader[17][1] == 7


@pytest.mark.parametrize(("train", "val", "said"), [
    ({"cat": 1}, {"cat": 1, "dog": 1}, r"differ between train/ \(1\) and val/ \(2\): only val/ has dog\."),
    ({"cat": 1, "cow": 1}, {"cat": 1, "dog": 1}, "only train/ has cow; only val/ has dog"),
    ({str(i): 1 for i in range(9)}, {"0": 1}, "only train/ has 1, 2, 3, 4, 5 and 3 more"),
    ({"cat": 0}, {"cat": 1}, "train holds no images"),
    ({"cat": 1, "dog": 0, "cow": 0}, {"cat": 1, "dog": 0}, r"train has folders without .* image: cow, dog\. Fill"),
    ({"cat": 1, "dog": 1}, {"cat": 1, "dog": 0}, "val has folders without a single image: dog"),
    ({"cat": 1}, {}, "neither a folder val/ nor a file val.tar"),
    ({}, {"cat": 1}, "neither a folder train/"),
])
def test_a_folder_that_is_not_as_it_must_be(tmp_path, train, val, said):
    with pytest.raises(UsageError, match=said):
        open_source(str(folder(tmp_path, train, val)))


def test_a_link_may_not_make_images_count_twice(tmp_path):
    folder(tmp_path, {"cat": 1, "dog": 1}, {"cat": 1, "dog": 1})
    for name, target in (("train/cat/again", ".."), ("val/puss", "cat")):
        link = tmp_path / name
        link.symlink_to(target)
        with pytest.raises(UsageError, match="are the same folder, by a link"):
            open_source(str(tmp_path))
        link.unlink()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "val" / "dog").rename(tmp_path / "elsewhere" / "dog")
    (tmp_path / "val" / "dog").symlink_to(tmp_path / "elsewhere" / "dog")
    assert open_source(str(tmp_path)).val.labels == [0, 1]


def test_an_image_outside_of_all_folders_is_no_class(tmp_path):
    folder(tmp_path, {"cat": 1}, {"cat": 1})
    for split in ("train", "val"):
        (tmp_path / split / "cat" / "0.jpg").rename(tmp_path / split / "0.jpg")
    with pytest.raises(UsageError, match=r"train/0\.jpg lies in no class folder"):
        open_source(str(tmp_path))


class Streaming:
    """What timm opens for a stream: its length is that of one of two processes."""

    class reader:
        num_samples = 96

    def __len__(self):
        return 48


def test_a_stream_is_as_long_as_all_processes_together_read(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(sources, "create_dataset", lambda *names, **keys: Streaming())
    assert open_source("wds:shards", classes=4).train.size == 96


def test_other_mistakes(tmp_path, monkeypatch):
    folder(tmp_path / "two", {"cat": 1, "dog": 1}, {"cat": 1, "dog": 1})
    (tmp_path / "map.txt").write_text("dog\nowl\ncat\n")
    (tmp_path / "torn").mkdir()
    for split in ("train", "val"):
        (tmp_path / "torn" / f"{split}.tar").write_bytes(b"no tar")
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    two = str(tmp_path / "two")
    for data, keys, said in (
            (str(tmp_path / "none"), {}, "No folder"),
            (two, {"classes": 3}, "has 2 classes, and 3 are asked for"),
            (two, {"classes": 2, "class_map": str(tmp_path / "map.txt")}, "label 2, which is not one of 0 to 1"),
            (two, {"class_map": str(tmp_path / "map.txt")}, "give --classes"),
            (two, {"class_map": "missing.txt"}, "Cannot locate"),
            (str(tmp_path / "torn"), {}, "Cannot read"),
            ("hfd:imagenet", {}, "Did you mean 'hfds'"),
            ("hfds:imagenet", {}, "pip install datasets"),
            ("wds:shards", {}, "pip install webdataset"),
            ("digits", {"class_map": "map.txt"}, "leave out --class-map")):
        with pytest.raises(UsageError, match=said):
            open_source(data, **keys)


def test_a_class_map_decides_the_labels(tmp_path):
    folder(tmp_path, {"cat": 1, "dog": 1}, {"cat": 1, "dog": 1})
    (tmp_path / "map.txt").write_text("dog\nowl\ncat\n")
    source = open_source(str(tmp_path), classes=3, class_map=str(tmp_path / "map.txt"))
    assert source.train.labels == [2, 0]
    assert source.classes == 3
