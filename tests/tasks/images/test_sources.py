"""Sources of images: what each kind of data gives, and one clear line for each that is not as it must be."""

from __future__ import annotations

import os
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from softbench.errors import UsageError
from softbench.tasks.images import sources
from softbench.tasks.images.sources import open_source


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
            (two, {"class_map": "missing.txt"}, "--class-map: cannot read .missing.txt.: No such file"),
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


def test_data_of_another_layout_are_refused_and_not_a_single_class(tmp_path):
    """As Tiny ImageNet comes: its validation images are in no classes."""
    folder(tmp_path, {"n1/images": 2, "n2/images": 2}, {"images": 2})
    with pytest.raises(UsageError, match=r"only train/ has n1, n2; only val/ has images\. A class is a folder at the"):
        open_source(str(tmp_path))
    (tmp_path / "val" / "images").rename(tmp_path / "val" / "n1")
    with pytest.raises(UsageError, match="only train/ has n2"):
        open_source(str(tmp_path))
    for split in ("train", "val"):
        for name in ("n1", "n2"):
            (tmp_path / split / "all").mkdir(exist_ok=True)
            if (tmp_path / split / name).exists():
                (tmp_path / split / name).rename(tmp_path / split / "all" / name)
    with pytest.raises(UsageError, match="has a single class, 'all'"):
        open_source(str(tmp_path))


def mapped(root: Path, text: str | bytes, name: str = "map.txt", classes: int | None = 3):
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(str(root), classes=classes, class_map=str(root / name))


@pytest.mark.parametrize("text", [
    "cow\ndog\ncat\n", "\ufeffcow\ndog\ncat", "cow\r\ndog\r\ncat\r\n", "\n cow \n\n\ndog\t\n\ncat\n\n",
    "cat 2\ndog 1\ncow 0\n", "\ufeffcat,2\r\ndog, 1\r\n\r\ncow,0",
    "cow\t0\ncat\t2\ndog\t1", "cow\ndog\ncat\n".encode("utf-16"),
])
def test_a_class_map_is_read_however_it_was_saved(tmp_path, text):
    folder(tmp_path, {"cat": 1, "cow": 1, "dog": 1}, {"cat": 1, "cow": 1, "dog": 1})
    source = mapped(tmp_path, text)
    assert (source.train.labels, source.val.labels) == ([2, 0, 1], [2, 0, 1])
    assert (source.names, source.remarks) == (["cow", "dog", "cat"], ())


@pytest.mark.parametrize(("text", "said"), [
    ("cat\ndgo\ncow\n", r"has no line for the folder 'dog'\. Did you mean 'dgo'\?"),
    ("cat\n", "no line for the folder 'cow' and 1 other folders"), ("", "is empty"), ("\n\n", "is empty"),
    ("cat\ncow\ndog\ncat\n", "names 'cat' twice"), ("cat 0\ncow 1\ndog 1\n", "gives 'cow' and 'dog' the same label, 1"),
    ("cat 0\ncow 1\ndog 7\n", "the label 7, which is not one of 0 to 2"),
    ("cat 0\ncow\ndog 2\n", "no line for the folder 'cat' and 1 other"),
    ("Cat\ncow\ndog", "no line for the folder 'cat'"),
    ("caf\xe9\ncow\ndog".encode("latin-1"), "is not text in UTF-8"),
])
def test_a_class_map_that_loses_a_class_is_refused(tmp_path, text, said):
    folder(tmp_path, {"cat": 1, "cow": 1, "dog": 1}, {"cat": 1, "cow": 1, "dog": 1})
    with pytest.raises(UsageError, match=said) as error:
        mapped(tmp_path, text)
    assert "\n" not in str(error.value)


def test_class_maps_of_other_kinds(tmp_path):
    folder(tmp_path, {"cat 1": 1, "cow 2": 1}, {"cat 1": 1, "cow 2": 1})
    assert mapped(tmp_path, "cow 2\ncat 1\n").train.labels == [1, 0]  # names that end in a number
    assert mapped(tmp_path, pickle.dumps({"cow 2": 0, "cat 1": 2}), "map.pkl").train.labels == [2, 0]
    for content, said in (({"cow 2": "0"}, "something else than names"), ([1], "Cannot read"), ({}, "is empty")):
        with pytest.raises(UsageError, match=said):
            mapped(tmp_path, pickle.dumps(content), "map.pkl")


def test_a_pickled_class_map_runs_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder(tmp_path, {"cat": 1, "dog": 1}, {"cat": 1, "dog": 1})
    with pytest.raises(UsageError, match=r"it names \w+\.mkdir, and a class map names no code"):
        mapped(tmp_path, pickle.dumps({"cat": Evil()}), "map.pkl")
    assert not (tmp_path / "ran").exists()


def test_what_is_left_out_is_remarked_once_for_each_split(tmp_path):
    folder(tmp_path, {"cat": 1, "dog": 1}, {"cat": 1, "dog": 1})
    for name in ("cat/a.heic", "dog/b.txt", "dog/c.txt"):
        (tmp_path / "train" / name).write_text("")
    source = mapped(tmp_path, "dog\nowl\ncat\n")
    assert source.remarks == (f"Left out of {tmp_path / 'train'}: 1 .heic, 2 .txt.",
                              "Without an image, of the class map: owl.")


def test_classes_of_a_checkpoint_are_taken_by_name(tmp_path):
    folder(tmp_path, {}, {"cat": 1, "dog": 1})
    source = open_source(str(tmp_path), training=False, classes=2, names=["dog", "cat"])
    assert (source.val.labels, source.names) == ([1, 0], ["dog", "cat"])
    for names, said in ((["cat", "ox"], "only the data has dog; only the checkpoint has ox"),
                        (["cat", "dog", "ox"], "only the checkpoint has ox"), (["cat"], "only the data has dog")):
        with pytest.raises(UsageError, match=said):
            open_source(str(tmp_path), training=False, classes=len(names), names=names)
    with pytest.raises(UsageError, match="they are in another order"):
        open_source("digits", classes=10, names=[str(digit) for digit in reversed(range(10))])
    (tmp_path / "map.txt").write_text("dog\ncat")
    assert open_source(str(tmp_path), training=False, classes=2, names=["ox", "ant"],
                       class_map=str(tmp_path / "map.txt")).val.labels == [1, 0]


class Labelled:
    """A data set of Hugging Face with these names of its two labels."""

    def __init__(self, *names):
        self.reader, self.class_to_idx = self, {name: label for label, name in enumerate(names)}

    def __len__(self):
        return 2

    def iter_targets(self):
        return [0, 1]


def test_splits_whose_labels_have_other_names_are_refused(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: True)
    for val, said in ((("dog", "cat"), "they are in another order"),
                      (("cat", "ox"), "only train has dog; only val has ox")):
        splits = {"train": Labelled("cat", "dog"), "val": Labelled(*val)}
        monkeypatch.setattr(sources, "create_dataset", lambda *names, split, splits=splits, **keys: splits[split])
        with pytest.raises(UsageError, match=said):
            open_source("hfds:x", splits=("train", "val"))
