"""Pictures: every file that Pillow opens becomes 8-bit RGB in one way, in training and in studies alike.

Numbers of more than 8 bits are scaled by the whole range that they have: 65,535 is white in 16 bits, 4,095 in 12. Files
use 32 bits for fewer, so there the range is the smallest of 255, 65,535 and all 32 bits that holds the picture. Float
numbers are 0 to 1, or 0 to 255 where one is clearly above 1. Numbers outside of their range are refused. As in timm and
torchvision, transparency is dropped (the colour that a pixel has beneath it stays), EXIF's orientation is not applied,
and of several frames or pages the first one counts.
"""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# They run another program, or hold no pixels that Pillow itself can decode.
_NOT_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2
_OVERSHOOT = 0.5  # how far beyond its range a float may be, as resampling leaves it


@functools.cache
def suffixes() -> frozenset[str]:
    """In lower case, the suffixes of files that are taken for pictures: those of formats that Pillow opens here."""
    from PIL import Image

    return frozenset(s for s, form in Image.registered_extensions().items() if form in formats())


@functools.cache
def formats() -> tuple[str, ...]:
    """Name the formats that Pillow opens here, as it calls them."""
    from PIL import Image

    Image.init()
    return tuple(form for form in Image.ID if form not in _NOT_PICTURES)


def left_out(path: str) -> str:
    """Why a file with this path is not taken for a picture, in a word to count by, such as its suffix; "" if it is."""
    if any(part.startswith(".") for part in path.split("/")):
        return "hidden"
    suffix = os.path.splitext(path)[1].lower()
    return "" if suffix in suffixes() else suffix or "without a suffix"


def opened(file: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """The picture in a file as 8-bit RGB. Raises whatever Pillow makes of a file that is none, or ValueError."""
    from PIL import Image

    with Image.open(file, formats=formats()) as image:
        image.load()
        return rgb(image)


def rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB.

    Raises:
        ValueError: floats outside of both ranges, or a mode that Pillow does not convert.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _levels(image).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow may warn of transparency
    return image if image.mode == "RGB" else image.convert("RGB")


def _levels(image: Image.Image) -> Image.Image:
    """256 levels of grey for one number a pixel."""
    from PIL import Image

    tags: Any = getattr(image, "tag_v2", {})  # of a TIFF
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
    numbers = np.asarray(image)
    if image.mode == "I" and tags and not signed:
        numbers = numbers.view(np.uint32)  # Pillow has them as signed
    low, high = float(numbers.min()), float(numbers.max())
    if image.mode == "F":
        white = 1.0 if high <= 1 + _OVERSHOOT else 255.0
    else:
        white = _white(image, tags.get(_BITS, (0,))[0] - signed, high)
    beyond = _OVERSHOOT * white if image.mode == "F" else 0.0
    if not -beyond <= low <= high <= white + beyond:  # not finite ones either
        raise ValueError(f"its numbers are from {low:g} to {high:g}, and should be from 0 to {white:g}")
    shares = numbers / white
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow heeds it up to 8 bits
        shares = 1 - shares
    return Image.fromarray(np.rint(shares * 255).clip(0, 255).astype(np.uint8))


def _white(image: Image.Image, bits: int, high: float) -> float:
    """The whole number that stands for white, in a picture whose highest is `high`; `bits` are those of a TIFF."""
    if bits <= 0:
        bits = 31 if image.mode == "I" and image.format not in ("PNG", "PPM") else 16
    used = next((fewer for fewer in (8, 16) if high < 2**fewer < 2**bits), bits) if bits > 16 else bits
    return 2.0**used - 1
