"""Pictures in folders and tars: labels are the folders at the top, in an order that every process shares."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from softbench.errors import UsageError
from softbench.tasks.images.folders import Pictures, natural


def filled(place: Path, *paths: str) -> Path:
    """A folder with these files, pictures and others, each of another colour."""
    for number, path in enumerate(paths):
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        if Path(path).suffix.lower() in (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".png"):
            Image.new("RGB", (8, 6), (number * 20, 0, 0)).save(place / path)
        else:
            (place / path).write_text("no picture")
    return place


def packed(place: Path, tar: Path, name: str = ".") -> Path:
    with tarfile.open(tar, "w") as archive:
        archive.add(place, name)
    return tar


def labelled(pictures: Pictures) -> dict[str, int]:
    return {pictures.filename(index): pictures.labels[index] for index in range(len(pictures))}


@pytest.mark.parametrize("form", ["folder", "tar", "tar of the folder", "tar with a folder above"])
def test_the_class_is_the_folder_at_the_top(tmp_path, form):
    place = filled(tmp_path / "train", "cat/indoor/1.jpg", "cat/outdoor/1.jpg", "cat/2.jpg", "dog/indoor/deep/er/1.jpg")
    if form != "folder":
        place = packed(place, tmp_path / "x.tar", {"tar": ".", "tar of the folder": "train"}.get(form, "data/train"))
    found = Pictures(place)
    assert found.classes == ["cat", "dog"]
    assert labelled(found) == {"cat/2.jpg": 0, "cat/indoor/1.jpg": 0, "cat/outdoor/1.jpg": 0,
                               "dog/indoor/deep/er/1.jpg": 1}
    with found[3][0] as file:
        assert Image.open(file).getpixel((0, 0))[0] == pytest.approx(60, abs=3)


def test_tars_inside_a_tar_are_folders(tmp_path):
    """As the training images of ImageNet come."""
    filled(tmp_path / "all", "n01/b.jpg", "n01/a.jpg", "n02/c.png")
    (tmp_path / "tars").mkdir()
    for name in ("n01", "n02"):
        packed(tmp_path / "all" / name, tmp_path / "tars" / f"{name}.tar")
    found = Pictures(packed(tmp_path / "tars", tmp_path / "train.tar"))
    assert labelled(found) == {"n01/a.jpg": 0, "n01/b.jpg": 0, "n02/c.png": 1}
    plain = Pictures(tmp_path / "all")
    for index in range(3):
        with found[index][0] as one, plain[index][0] as other:
            assert one.read() == other.read()


def test_readers_say_the_labels_of_their_classes_as_those_of_timm_do(tmp_path):
    pictures = Pictures(filled(tmp_path, "b/0.png", "A/0.png", "a/0.png"))
    assert pictures.class_to_idx == {"A": 0, "a": 1, "b": 2}
    pictures.label({"a": 5, "b": 0, "A": 7, "other": 1})
    assert pictures.class_to_idx == {"A": 7, "a": 5, "b": 0}
    assert labelled(pictures) == {"A/0.png": 7, "a/0.png": 5, "b/0.png": 0}


def test_natural_order_is_total():
    names = ["10", "2", "A", "a", "01", "1", "001", "B", "²", "b1c", "B1c", "b01c", "", "é", "É", "a²1"]
    expected = sorted(names, key=natural)
    for seed in range(20):
        random.Random(seed).shuffle(names)
        assert sorted(names, key=natural) == expected
    assert expected.index("2") < expected.index("10")
    assert [name for name in expected if name in "Aa" and name] == ["A", "a"]
    assert [name for name in expected if name in ("1", "01", "001")] == ["001", "01", "1"]


def test_every_process_gives_the_same_labels(tmp_path):
    """Whatever its hashes, and whatever order the file system lists names in."""
    for place, names in enumerate((("A", "a", "B"), ("1", "01", "001", "2"), ("x1", "X01", "x01"))):
        filled(tmp_path / f"train{place}", *(f"{name}/{i}.jpg" for name in names for i in ("1", "01")))
    code = ("import sys, os, random; from softbench.tasks.images import folders\n"
            "walk = os.walk\n"
            "def shuffled(*a, **k):\n"
            "    for above, inside, files in walk(*a, **k):\n"
            "        random.shuffle(inside); random.shuffle(files); yield above, inside, files\n"
            "random.seed(int(sys.argv[2])); os.walk = shuffled\n"
            "for place in range(3):\n"
            "    p = folders.Pictures(folders.Path(f'{sys.argv[1]}{place}'))\n"
            "    print(p.classes, p.labels, [f.path for f in p.samples])")
    answers = {subprocess.run([sys.executable, "-c", code, str(tmp_path / "train"), str(seed)], check=True, text=True,
                              capture_output=True, env=os.environ | {"PYTHONHASHSEED": str(seed)}).stdout
               for seed in range(3)}
    assert len(answers) == 1
    assert answers.pop().count("\n") == 3


def test_what_is_left_out_is_counted(tmp_path):
    place = filled(tmp_path / "train", "cat/1.JPEG", "cat/2.webp", "cat/3.bmp", "dog/4.TIF", "dog/5.png", "dog/a.txt",
                   "dog/b.TXT", "cat/c.heic", "README", "cat/._1.jpg", ".cache/1.jpg")
    for found in (Pictures(place), Pictures(packed(place, tmp_path / "x.tar"))):
        assert list(labelled(found)) == ["cat/1.JPEG", "cat/2.webp", "cat/3.bmp", "dog/4.TIF", "dog/5.png"]
        assert found.left_out == {".txt": 2, ".heic": 1, "without a suffix": 1, "hidden": 2}


@pytest.mark.parametrize(("files", "said"), [
    (["a.jpg", "b.jpg"], "a.jpg lies in no class folder"),
    (["cat/1.jpg", "b.jpg"], "b.jpg lies in no class folder"),
    (["cat/1.jpg", "dog/1.heic"], r"without a single image: dog \(left out: 1 .heic\)"),
    (["cat/1.jpg", "dog/sub/1.txt"], "without a single image: dog"),
    (["cat/1.txt"], r"holds no images \(left out: 1 .txt\)"),
])
def test_what_cannot_be_labelled_is_refused(tmp_path, files, said):
    place = filled(tmp_path / "train", *files)
    for form in (place, packed(place, tmp_path / "x.tar")):
        with pytest.raises(UsageError, match=said) as error:
            Pictures(form)
        assert "\n" not in str(error.value)


def test_folders_that_cannot_be_listed_and_circles_are_refused(tmp_path, monkeypatch):
    place = filled(tmp_path / "train", "cat/1.jpg", "dog/1.jpg")
    (place / "a").symlink_to(".")
    with pytest.raises(UsageError, match="are the same folder, by a link"):
        Pictures(place)
    (place / "a").unlink()
    real = os.scandir

    def closed(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UsageError, match=r"Cannot read .*: Permission denied"):
        Pictures(place)


def test_a_damaged_tar_is_not_read_in_part(tmp_path):
    place = filled(tmp_path / "train", *(f"{name}/{i}.bmp" for name in "ab" for i in range(3)))
    tar = packed(place, tmp_path / "x.tar")
    whole, data = tar.read_bytes(), Pictures(tar).samples[-1].start
    for broken in (whole[:data + 10], whole[:data - 100], whole[:data - 512] + b"x" * 512 + whole[data:]):
        tar.write_bytes(broken)
        with pytest.raises(UsageError, match=r"Cannot read .*x\.tar"):
            Pictures(tar)


def test_of_two_files_of_one_path_a_tar_holds_the_later(tmp_path):
    tar = packed(filled(tmp_path / "train", "a/1.jpg", "b/1.jpg"), tmp_path / "x.tar")
    with tarfile.open(tar, "a") as archive:
        archive.add(tmp_path / "train" / "b" / "1.jpg", "./a/1.jpg")
    found = Pictures(tar)
    with found[0][0] as one, found[1][0] as other:
        assert (len(found), one.read()) == (2, other.read())
