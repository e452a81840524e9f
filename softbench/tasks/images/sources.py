"""Sources of images: what `--data` names, opened as two splits whose classes have been compared.

    DIR                 train/ and val/ with a folder for each class, or train.tar and val.tar with such folders inside
    hfds:NAME           a data set of Hugging Face, read at random; hfids:NAME the same as a stream
    wds:DIR, tfds:NAME  WebDataset shards, TensorFlow data sets: streams
    synthetic           noise of ImageNet's size and number of classes, made as it is read
    digits              scikit-learn's 1,797 scanned digits, 360 of them held out

A reader is what timm calls one: `reader[index]` is an image, or an open file of one, and its label. Streams are
iterated.

Labels follow the natural order of the classes' names. Where a checkpoint is scored they are those of the same names in
it, and a class map decides above all.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.data import create_dataset

from softbench.errors import UsageError, unknown
from softbench.tasks.images import classmap
from softbench.tasks.images.folders import Pictures, counted, some

SYNTHETIC_IMAGES = {"train": 1_281_167, "val": 50_000}  # as ImageNet-1k has
SYNTHETIC_SIZE = (500, 375)  # a usual size of its photographs
DIGITS_HELD_OUT = 360
_READERS = {"hfds": "datasets", "hfids": "datasets", "wds": "webdataset", "tfds": "tensorflow_datasets"}
_STREAMS = ("hfids", "wds", "tfds")
_CLASS = "A class is a folder at the top of a split."
_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "eval", "evaluation")}


@dataclass(frozen=True)
class Split:
    """One split: a reader, the number of its images, and the labels that can be known without reading images."""

    reader: Any
    size: int
    labels: Sequence[int] | None = None
    stream: Any = None  # timm's IterableImageDataset, in place of a reader

    def name(self, index: int) -> str:
        """The name of the image at this index: its path below the folder, or its number."""
        if hasattr(self.reader, "filename"):
            return str(self.reader.filename(index))
        return f"image {index}"


@dataclass(frozen=True)
class Source:
    """Both splits of a data set (`train` is None where only evaluation is asked for) and its classes.

    Attributes:
        classes: their number.
        names: theirs, in the order of labels, as far as the data or a class map say them.
        remarks: on what was left out, to be said once.
    """

    train: Split | None
    val: Split
    classes: int
    names: list[str] | None = None
    remarks: tuple[str, ...] = ()


_Opened = tuple[Split | None, Split, list[str] | None]  # with the names of the classes, where the data have them


def open_source(data: str, *, training: bool = True, classes: int | None = None, class_map: str = "",
                splits: tuple[str, str] = ("train", "validation"), batch: int = 1, seed: int = 0,
                names: Sequence[str] | None = None) -> Source:
    """The data set that `--data` names.

    Args:
        training: also open the training split.
        classes: the number of classes, where the data cannot say it, or a checkpoint decides it.
        class_map: a file that maps names of classes to labels, see `softbench.tasks.images.classmap`.
        splits: names of the two splits in a data set that is not a folder.
        batch, seed: for streams, which shuffle and cut by themselves.
        names: those of the classes that a model was trained on, in the order of its outputs; a class map goes before.
    Raises:
        UsageError: no such data, an empty or missing split, classes that differ, labels out of range.
    """
    kind, colon, name = data.partition(":")
    if data in ("digits", "synthetic") and class_map:
        raise UsageError(f"--data {data} has labels of its own: leave out --class-map.")
    if data in ("digits", "synthetic"):
        opened: _Opened = _digits() if data == "digits" else _synthetic(classes or 1000)
    elif colon and kind in _READERS:
        opened = _from_timm(kind, name, splits, class_map, batch, seed, training)
    elif colon and not Path(data).exists() and "/" not in kind:
        raise unknown("kind of data", kind, [*_READERS, "digits", "synthetic"])
    else:
        opened = _from_folder(Path(data), training)
    train, val, own = opened
    labels: dict[str, int] | None = None
    if class_map:
        labels = classmap.read(Path(class_map), own or ())
    elif own is not None:
        labels = _numbered(data, own, classes, names, by_name=isinstance(val.reader, Pictures))
    count = classes or (0 if class_map else len(labels or ()))
    if not count:
        raise UsageError(f"{data} does not say how many classes it has: give --classes N.")
    labelled = [split and _labelled(split, labels) for split in (train if training else None, val)]
    for split in labelled:
        if split is not None:
            _check_labels(split, count)
    assert labelled[1] is not None
    return Source(labelled[0], labelled[1], count, classmap.ordered(labels, count) if labels else None,
                  _remarks(labelled, own, labels))


def _from_folder(root: Path, training: bool) -> _Opened:
    if not root.exists():
        raise UsageError(f"No folder {root}. --data takes a folder with train/ and val/, digits, synthetic, or"
                         " hfds:NAME, hfids:NAME, wds:DIR, tfds:NAME.")
    readers = {split: _folder_reader(root, split) for split in (("train",) if training else ()) + ("val",)}
    opened = {split: Split(reader, len(reader), reader.labels) for split, reader in readers.items()}
    if training:
        _check_alike(str(root), {f"{split}/": reader.classes for split, reader in readers.items()})
    return opened.get("train"), opened["val"], readers["val"].classes


def _folder_reader(root: Path, split: str) -> Pictures:
    places = [root / f"{name}{suffix}" for name in _FOLDERS[split] for suffix in ("", ".tar")]
    place = next((path for path in places if path.exists()), None)
    if place is None:
        raise UsageError(f"{root} has neither a folder {split}/ nor a file {split}.tar.")
    return Pictures(place)


def _check_alike(data: str, classes: Mapping[str, Sequence[str]]) -> None:
    """Refuse two splits whose classes differ, and a single class, which every model would know."""
    (train, ours), (val, theirs) = classes.items()
    if list(ours) != list(theirs):
        raise UsageError(f"The classes of {data} differ between {train} ({len(ours)}) and {val} ({len(theirs)}):"
                         f" {_difference({train: ours, val: theirs})}. {_CLASS}")
    if len(ours) == 1:
        raise UsageError(f"{data} has a single class, '{ours[0]}', and nothing to tell apart. {_CLASS}")


def _numbered(data: str, own: Sequence[str], classes: int | None, names: Sequence[str] | None, by_name: bool
              ) -> dict[str, int]:
    """The labels of classes: their places among the `names` that a model has, which must be the same ones, or their own
    places. Only `by_name` may the order be another."""
    wrong = ""
    if names is not None and (set(own) != set(names) or (not by_name and list(own) != list(names))):
        words = _difference({"the data": own, "the checkpoint": names})
        wrong = f"The classes of {data} are not those of the checkpoint: {words}."
    elif names is None and classes is not None and len(own) != classes:
        wrong = f"{data} has {len(own)} classes, and {classes} are asked for: the model's head must fit the data."
    if wrong:
        raise UsageError(f"{wrong} Evaluate on the data it was trained on, or give their labels with --class-map FILE.")
    return {name: label for label, name in enumerate(names or own)}


def _difference(classes: Mapping[str, Sequence[str]]) -> str:
    (one, ours), (other, theirs) = classes.items()
    words = [f"only {who} has {some(extra)}" for who, extra in (
        (one, [name for name in ours if name not in set(theirs)]),
        (other, [name for name in theirs if name not in set(ours)])) if extra]
    return "; ".join(words) or "they are in another order"


def _labelled(split: Split, labels: Mapping[str, int] | None) -> Split:
    """The split with these labels of its classes' names, where it is of folders."""
    if labels is None or not isinstance(split.reader, Pictures):
        return split
    split.reader.label(labels)
    return replace(split, labels=split.reader.labels)


def _remarks(splits: Sequence[Split | None], own: Sequence[str] | None, labels: Mapping[str, int] | None
             ) -> tuple[str, ...]:
    """Remarks on what was left out of folders, and on classes of a map that the data do not have."""
    remarks = [f"Left out of {reader.place}: {counted(reader.left_out)}." for split in splits if split is not None
             if isinstance(reader := split.reader, Pictures) and reader.left_out]
    if own and labels and (unused := [name for name in labels if name not in set(own)]):
        remarks.append(f"Without an image, of the class map: {some(unused)}.")
    return tuple(remarks)


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

    labels = classmap.read(Path(class_map)) if class_map else None

    def open_split(split: str, train: bool) -> Split:
        root, title = (name, f"{kind}/") if kind == "wds" else (None, f"{kind}/{name}")
        try:
            dataset = create_dataset(title, root=root, split=split, is_training=train, batch_size=batch, seed=seed,
                                   class_map=labels,  # type: ignore[arg-type]
                                   input_img_mode="" if kind in ("hfids", "wds") else "RGB")
            size = dataset.reader.num_samples if kind in _STREAMS else len(dataset)  # len(): for one of many processes
        except Exception as error:  # of four libraries
            reason = str(error).rstrip(".") or type(error).__name__
            raise UsageError(f"Cannot open the split '{split}' of {kind}:{name}: {reason}.") from error
        if not size:
            raise UsageError(f"The split '{split}' of {kind}:{name} is empty, or does not say how long it is.")
        if kind in _STREAMS:
            return Split(dataset.reader, size, stream=dataset)
        return Split(dataset.reader, size, list(dataset.reader.iter_targets()))

    train = open_split(splits[0], True) if training else None
    val = open_split(splits[1], False)
    if labels is not None:
        return train, val, None
    if train is not None:
        _check_alike(f"{kind}:{name}", {title: _class_names(split.reader)
                                        for title, split in zip(splits, (train, val), strict=True)})
    return train, val, _class_names(val.reader) or None


def _class_names(reader: Any) -> list[str]:
    names: dict[str, int] = getattr(reader, "class_to_idx", None) or {}
    return sorted(names, key=lambda name: names[name])


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

    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # they are 0 to 16
    order = train_test_split(np.arange(len(pixels)), test_size=DIGITS_HELD_OUT, stratify=digits.target, random_state=0)
    train, val = (Digits(pixels[part], [int(label) for label in digits.target[part]]) for part in order)
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
