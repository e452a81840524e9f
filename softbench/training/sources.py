"""Sources of images: what `--data` names, opened as two splits whose classes have been compared.

    DIR                 train/ and val/ with a folder for each class, or train.tar and val.tar with such folders inside
    hfds:NAME           a data set of Hugging Face, read at random; hfids:NAME the same as a stream
    wds:DIR, tfds:NAME  WebDataset shards, TensorFlow data sets: streams
    synthetic           noise of ImageNet's size and number of classes, made as it is read
    digits              scikit-learn's 1,797 scanned digits, 360 of them held out

A reader is what timm calls one: `reader[index]` is an image, or an open file of one, and its label. Streams are
iterated.
"""

from __future__ import annotations

import importlib.util
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_dataset
from timm.data.readers.reader_image_folder import ReaderImageFolder
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from softbench import files
from softbench.errors import UsageError, unknown

SYNTHETIC_IMAGES = {"train": 1_281_167, "val": 50_000}  # as ImageNet-1k has
SYNTHETIC_SIZE = (500, 375)  # a usual size of its photographs
DIGITS_HELD_OUT = 360
_READERS = {"hfds": "datasets", "hfids": "datasets", "wds": "webdataset", "tfds": "tensorflow_datasets"}
_STREAMS = ("hfids", "wds", "tfds")
_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "eval", "evaluation")}
_NAMED = 5  # names of classes in a message, at most


@dataclass(frozen=True)
class Split:
    """One split: a reader, the number of its images, and the labels that can be known without reading images."""

    reader: Any
    size: int
    labels: Sequence[int] | None = None
    stream: Any = None  # timm's IterableImageDataset, in place of a reader

    def name(self, index: int) -> str:
        """What the image at this index is called: its path below the folder, or its number."""
        if hasattr(self.reader, "filename"):
            return str(self.reader.filename(index))
        return f"image {index}"


@dataclass(frozen=True)
class Source:
    """Both splits of a data set (`train` is None where only evaluation is asked for) and the number of its classes."""

    train: Split | None
    val: Split
    classes: int


_Opened = tuple[Split | None, Split, list[str] | None]  # with the names of the classes, where the data have them


def open_source(data: str, *, training: bool = True, classes: int | None = None, class_map: str = "",
                splits: tuple[str, str] = ("train", "validation"), batch: int = 1, seed: int = 0) -> Source:
    """The data set that `--data` names.

    Args:
        training: also open the training split.
        classes: the number of classes, where the data cannot say it, or a checkpoint decides it.
        class_map: a file that maps names of classes to labels, as timm reads it.
        splits: names of the two splits in a data set that is not a folder.
        batch, seed: for streams, which shuffle and cut by themselves.
    Raises:
        UsageError: no such data, an empty or missing split, classes that differ, labels out of range.
    """
    kind, colon, name = data.partition(":")
    if data in ("digits", "synthetic") and class_map:
        raise UsageError(f"--data {data} has labels of its own: leave out --class-map.")
    if class_map:
        _check_file("--class-map", class_map)
    if data in ("digits", "synthetic"):
        found: _Opened = _digits() if data == "digits" else _synthetic(classes or 1000)
    elif colon and kind in _READERS:
        found = _from_timm(kind, name, splits, class_map, batch, seed, training)
    elif colon and not Path(data).exists() and "/" not in kind:
        raise unknown("kind of data", kind, [*_READERS, "digits", "synthetic"])
    else:
        found = _from_folder(Path(data), class_map, training)
    train, val, names = found
    if names is not None and classes is not None and len(names) != classes:
        raise UsageError(f"{data} has {len(names)} classes, and {classes} are asked for: the model's head must fit the"
                         " data. Evaluate on the data it was trained on, or give their labels with --class-map FILE.")
    count = classes or len(names or ())
    if not count:
        raise UsageError(f"{data} does not say how many classes it has: give --classes N.")
    for split in (train, val):
        if split is not None:
            _check_labels(split, count)
    return Source(train if training else None, val, count)


def _check_file(flag: str, path: str) -> None:
    """Raise UsageError for what is no file: a device or a pipe may never end."""
    try:
        files.check_regular(path)
    except OSError as error:
        raise UsageError(f"{flag}: cannot read '{path}': {error.strerror}.") from error


def _from_folder(root: Path, class_map: str, training: bool) -> _Opened:
    if not root.exists():
        raise UsageError(f"No folder {root}. --data takes a folder with train/ and val/, digits, synthetic, or"
                         " hfds:NAME, hfids:NAME, wds:DIR, tfds:NAME.")
    readers = {split: _folder_reader(root, split, class_map) for split in (("train",) if training else ()) + ("val",)}
    classes = {split: _class_names(reader) for split, reader in readers.items()}
    if training and classes["train"] != classes["val"] and not class_map:
        raise UsageError(_classes_differ(root, classes["train"], classes["val"]))
    opened = {split: Split(reader, len(reader), _labels(reader)) for split, reader in readers.items()}
    return opened.get("train"), opened["val"], None if class_map else classes["val"]


def _folder_reader(root: Path, split: str, class_map: str) -> Any:
    places = [root / f"{name}{suffix}" for name in _FOLDERS[split] for suffix in ("", ".tar")]
    place = next((path for path in places if path.exists()), None)
    if place is None:
        raise UsageError(f"{root} has neither a folder {split}/ nor a file {split}.tar.")
    reader = ReaderImageInTar if place.is_file() else ReaderImageFolder
    try:
        found = reader(str(place), class_map=class_map)
    except (RuntimeError, AssertionError, ValueError, OSError, tarfile.TarError) as error:
        if "Found 0 images" in str(error):
            raise UsageError(f"{place} holds no images. It needs a folder of images for each class.") from error
        raise UsageError(f"Cannot read {place}: {error}.") from error
    if not len(found):
        raise UsageError(f"{place} holds no images. It needs a folder of images for each class.")
    if place.is_dir():
        _check_folders(place, {os.path.dirname(path): path for path, _ in found.samples}, bool(class_map))
    return found


def _check_folders(place: Path, images: Mapping[str, str], mapped: bool) -> None:
    """Refuse what timm takes without a word; `images` has one image of each folder that has any."""
    if str(place) in images:
        raise UsageError(f"{images[str(place)]} lies in no class folder: move it into one, or remove it.")
    known: dict[str, str] = {}
    for folder in sorted(images):
        if (other := known.setdefault(os.path.realpath(folder), folder)) != folder:
            raise UsageError(f"{folder} and {other} are the same folder, by a link: its images would count twice."
                             " Remove the link.")
    filled = {Path(folder).relative_to(place).parts[0] for folder in images}
    empty = [] if mapped else sorted(path.name for path in place.iterdir() if path.is_dir()
                                     and path.name not in filled and not path.name.startswith("."))
    if empty:
        raise UsageError(f"{place} has folders without a single image: {_some(empty)}. Fill them, or remove them.")


def _class_names(reader: Any) -> list[str]:
    names: dict[str, int] = getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None) or {}
    return sorted(names, key=lambda name: names[name])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _classes_differ(root: Path, train: Sequence[str], val: Sequence[str]) -> str:
    words = [f"only {split}/ has {_some(extra)}" for split, extra in (
        ("train", [n for n in train if n not in set(val)]), ("val", [n for n in val if n not in set(train)])) if extra]
    return f"The classes of {root} differ between train/ ({len(train)}) and val/ ({len(val)}): {'; '.join(words)}."


def _labels(reader: Any) -> Sequence[int]:
    if hasattr(reader, "targets"):
        return [int(label) for label in reader.targets]
    return [label for _, label in reader.samples]


def _check_labels(split: Split, classes: int) -> None:
    for index, label in enumerate(split.labels or ()):
        if not 0 <= label < classes:
            raise UsageError(f"{split.name(index)} has the label {label}, which is not one of 0 to {classes - 1}. Check"
                             " the number of classes and the class map.")


def _from_timm(kind: str, name: str, splits: tuple[str, str], class_map: str, batch: int, seed: int,
               training: bool) -> _Opened:
    if importlib.util.find_spec(_READERS[kind]) is None:
        raise UsageError(f"--data {kind}: needs the package {_READERS[kind]}: pip install {_READERS[kind]}.")
    if not name:
        raise UsageError(f"--data {kind}: lacks a name, as in {kind}:NAME.")

    def open_split(split: str, train: bool) -> Split:
        root, title = (name, f"{kind}/") if kind == "wds" else (None, f"{kind}/{name}")
        try:
            found = create_dataset(title, root=root, split=split, is_training=train, batch_size=batch, seed=seed,
                                   class_map=class_map or None)  # type: ignore[arg-type]
            size = found.reader.num_samples if kind in _STREAMS else len(found)  # len() is for one of many processes
        except Exception as error:  # of four libraries
            reason = str(error).rstrip(".") or type(error).__name__
            raise UsageError(f"Cannot open the split '{split}' of {kind}:{name}: {reason}.") from error
        if not size:
            raise UsageError(f"The split '{split}' of {kind}:{name} is empty, or does not say how long it is.")
        if kind in _STREAMS:
            return Split(found.reader, size, stream=found)
        return Split(found.reader, size, list(found.reader.iter_targets()))

    train = open_split(splits[0], True) if training else None
    val = open_split(splits[1], False)
    return train, val, None if class_map else _class_names(val.reader) or None


class Digits:
    """A reader of scikit-learn's digits, 8 x 8 pixels each, as RGB images."""

    def __init__(self, images: Any, labels: Sequence[int]) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]).convert("RGB"), self.labels[index]


def _digits() -> _Opened:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise UsageError("--data digits comes with scikit-learn: pip install scikit-learn.") from error

    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)  # they are 0 to 16
    order = train_test_split(np.arange(len(pixels)), test_size=DIGITS_HELD_OUT, stratify=found.target, random_state=0)
    train, val = (Digits(pixels[part], [int(label) for label in found.target[part]]) for part in order)
    return Split(train, len(train), train.labels), Split(val, len(val), val.labels), [str(digit) for digit in range(10)]


class Synthetic:
    """A reader of noise, an image for each number: what it costs to train, without a data set."""

    def __init__(self, size: int, classes: int, seed: int) -> None:
        self.size, self.classes, self.seed = size, classes, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        wide, high = SYNTHETIC_SIZE
        noise = np.random.default_rng((self.seed, index)).integers(0, 256, (high, wide, 3), dtype=np.uint8)
        return Image.fromarray(noise), index % self.classes


def _synthetic(classes: int) -> _Opened:
    train, val = (Split(Synthetic(size, classes, seed), size) for seed, size in enumerate(SYNTHETIC_IMAGES.values()))
    return train, val, [str(label) for label in range(classes)]
