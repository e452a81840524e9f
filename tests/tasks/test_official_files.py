"""The official release's files are read, and folders that hold something else are refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softbench.case import AttentionSpec
from softbench.contracts import task as tasks
from softbench.contracts.task import Samples
from softbench.errors import UsageError
from softbench.studies.accuracy import learning
from softbench.tasks import listops


def opened(name: str, folder: Path, split: str = "test", **values: object) -> Samples:
    return tasks.load(name, {"data": str(folder), **values}).open(split)


def test_listops(tmp_path: Path) -> None:
    rows = ["( ( ( [MAX 2 ) 9 ) ] )\t9", "( ( ( ( [SM 7 ) 8 ) ( ( ( [MED 1 ) 4 ) ] ) ) ] )\t7", "5\t5"]
    (tmp_path / "basic_test.tsv").write_text("\n".join(["Source\tTarget", *rows]) + "\n")
    samples = opened("listops", tmp_path, max_length=12)
    words = [[listops.VOCABULARY[token] for token in row if token] for row in samples.inputs]
    assert words == [["[MAX", "2", "9", "]"], ["[SM", "7", "8", "[MED", "1", "4", "]", "]"], ["5"]]
    assert samples.labels.tolist() == [9, 7, 5]


def test_list_operations_are_not_cut(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"basic_{split}.tsv").write_text(f"Source\tTarget\n5\t5\n[MAX {'1 ' * 150}]\t1\n")
    with pytest.raises(UsageError, match=r"has a sample of 152 tokens, and max_length=128 .* set max_length=2000\."):
        opened("listops", tmp_path, "train")
    assert (opened("listops", tmp_path, "train", max_length=2000).inputs > 0).sum() == 153


def test_all_splits_are_looked_for_before_anything_is_learned(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"basic_{split}.tsv").write_text("Source\tTarget\n5\t5\n")
    with pytest.raises(UsageError, match=r"Cannot read .*basic_test\.tsv"):
        learning.kept(AttentionSpec("listops", {"data": str(tmp_path)}))


def test_reviews(tmp_path: Path) -> None:
    for split, label, count in (("train", "pos", 12), ("train", "neg", 8), ("test", "pos", 2), ("test", "neg", 3)):
        folder = tmp_path / split / label
        folder.mkdir(parents=True)
        for i in range(count):
            (folder / f"{i}_7.txt").write_text(f"{split} {label} {i} é")
    shown = {split: opened("text", tmp_path, split, tokens=20) for split in ("train", "val", "test")}
    assert [len(samples) for samples in shown.values()] == [18, 2, 5]
    for samples in shown.values():
        for row, label in zip(samples.inputs, samples.labels, strict=True):
            assert (b" pos " in row.tobytes()) == bool(label)
    both = [row.tobytes() for split in ("train", "val") for row in shown[split].inputs]
    assert len(set(both)) == 20
    assert tasks.load("text", {"data": str(tmp_path)}).chance() == 0.5


def test_pairs_of_papers(tmp_path: Path) -> None:
    (tmp_path / "new_aan_pairs.eval.tsv").write_bytes(
        b"1.0\tP1\tP2\tone text\tanother\n0.0\tP3\tP4\tx\tyyyyyyyyyyyyyy\n")
    samples = opened("retrieval", tmp_path, "val", tokens=16)
    assert samples.labels.tolist() == [1, 0]
    assert [row.tobytes() for row in samples.inputs] == [b"one textanother\0", b"x" + b"\0" * 7 + b"y" * 8]


def test_pathfinder(tmp_path: Path) -> None:
    (tmp_path / "metadata").mkdir()
    (tmp_path / "imgs" / "0").mkdir(parents=True)
    lines = []
    for i in range(10):
        Image.fromarray(np.full((4, 4), 20 * i, np.uint8)).save(tmp_path / "imgs" / "0" / f"sample_{i}.png")
        lines.append(f"imgs/0 sample_{i}.png {i} {i % 2} 1.0 14 4 2 0.5 1 1")
    (tmp_path / "metadata" / "0.npy").write_text("\n".join(lines) + "\n")
    parts = {split: opened("pathfinder", tmp_path, split) for split in ("train", "val", "test")}
    assert [len(samples) for samples in parts.values()] == [8, 1, 1]
    shades = [round((float(row[0, 0]) + 1) * 127.5) // 20 for samples in parts.values() for row in samples.inputs]
    assert sorted(shades) == list(range(10))
    assert [shade % 2 for shade in shades] == [label for samples in parts.values() for label in samples.labels]


def colours(folder: Path) -> None:
    for split, count in (("train", 6), ("test", 2)):
        for label, shade in (("cat", 10), ("dog", 200)):
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((4, 4, 3), (shade, shade + i, 0), np.uint8)).save(place / f"{i}.png")


def test_images_of_a_folder_and_of_arrays_are_the_same(tmp_path: Path) -> None:
    colours(tmp_path)
    by_folder = {split: opened("image", tmp_path, split, val=3) for split in ("train", "val", "test")}
    assert [len(samples) for samples in by_folder.values()] == [9, 3, 4]
    assert by_folder["test"].labels.tolist() == [0, 0, 1, 1]
    grey = round(10 * 0.299 + 11 * 0.587)
    assert by_folder["test"].inputs[1, 0, 0] == pytest.approx(grey / 127.5 - 1)
    arrays = tmp_path / "arrays"
    arrays.mkdir()
    for split, count in (("train", 6), ("test", 2)):
        files = [sorted((tmp_path / split / label).iterdir()) for label in ("cat", "dog")]
        images = np.stack([np.asarray(Image.open(file)) for folder in files for file in folder])
        np.savez(arrays / f"{split}.npz", images=images, labels=np.repeat([0, 1], count))
    for split, samples in by_folder.items():
        assert opened("image", arrays, split, val=3).digest() == samples.digest()
    assert tasks.load("image", {"data": str(tmp_path)}).chance() == 0.5


@pytest.mark.parametrize("own", [False, True])
def test_fewer_images_than_there_are_are_of_all_classes(tmp_path: Path, own: bool) -> None:
    labels = np.repeat(np.arange(4), 50)
    for split in ("train", "test", *(["val"] if own else [])):
        np.savez(tmp_path / f"{split}.npz", images=np.zeros((200, 2, 2), np.uint8), labels=labels)
    for split in ("train", "val", "test"):
        samples = opened("image", tmp_path, split, train=30, val=30, test=30)
        assert (len(samples), samples.classes, set(samples.labels.tolist())) == (30, 4, {0, 1, 2, 3})
    assert opened("image", tmp_path, test=1).classes == 4


def test_images_whose_splits_have_other_classes_are_refused(tmp_path: Path) -> None:
    colours(tmp_path)
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "eel")
    with pytest.raises(UsageError, match=r"must have the same class folders, and 'cat' is in '.*train' alone\."):
        opened("image", tmp_path, "train")


def test_pickles_are_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "test.npz", images=np.array([{}], object), labels=np.zeros(1, int))
    with pytest.raises(UsageError, match="Object arrays cannot be loaded"):
        opened("image", tmp_path)


@pytest.mark.parametrize(("name", "words"), [
    ("listops", "as ListOps of Long Range Arena, with Source and Target"), ("text", "holds no IMDb reviews"),
    ("retrieval", "as pairs of Long Range Arena"), ("pathfinder", "holds no metadata/ of Pathfinder"),
    ("image", "holds no pictures: give a folder")])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, name: str, words: str) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    with pytest.raises(UsageError, match=words) as error:
        opened(name, tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "file", "content"), [
    ("listops", "basic_test.tsv", "Source\tTarget\n[MAX nonsense ]\t3\n"),
    ("listops", "basic_test.tsv", "one\ttwo\n"),
    ("listops", "basic_test.tsv", "Source\tTarget\n"),
    ("retrieval", "new_aan_pairs.test.tsv", "1.0\tonly\tthree\n"),
    ("retrieval", "new_aan_pairs.test.tsv", ""),
    ("pathfinder", "metadata/0.npy", "imgs/0 sample_0.png\n"),
    ("pathfinder", "metadata/0.npy", "imgs/0 sample_0.png 0 1\n"),
    ("image", "test/cat/0.png", "no picture"),
])
def test_files_that_hold_something_else_are_refused(tmp_path: Path, name: str, file: str, content: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(content)
    with pytest.raises(UsageError) as error:
        opened(name, tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
