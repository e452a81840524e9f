"""Inputs: the families of q, k, v that a case can run on. All are seeded and the same on every machine.

- `normal`, `structured`, `clustered`, `lowrank`, `peaky`, `outliers`, `constant`: made up
  (`softbench.inputs.made_up`); a number after a colon sets the parameter, as in `structured:0.5`.
- `image[:PATH]`: tokens of real photographs. A window of the shape of the token grid is cut from each, at a seeded
  place and from half of to all of the largest such window in side, resized to 4 x 4 pixels a token, and passed through
  a patch embedding (4 x 4 x 3 -> heads * head_dim), LayerNorm and three projections with Gaussian weights of variance
  1 / fan-in, as at the start of a vision transformer. The weights are the same for every seed, so that samples differ
  as images do to one network. PATH is a photograph, of any format that Pillow opens and read as
  `softbench.inputs.pictures` says, or a folder of them; without it, the two photographs that scikit-learn ships are
  used.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from softbench.case import Shape
from softbench.errors import UsageError, unknown
from softbench.inputs import made_up, pictures

_PATCH = 4
_STEM_SEED = 0
_SMALLEST_CROP = 0.5  # of the side of the largest


def check(family: str) -> None:
    """Raise UsageError unless the family exists and what it needs is there."""
    name, colon, path = family.partition(":")
    if name == "image":
        if colon and not path:
            raise UsageError("--inputs image: no path after the colon: give one, or leave the colon out.")
        _photographs(path)
    elif name in made_up.FAMILIES:
        made_up.parse(family)
    else:
        raise unknown("inputs", family, [*made_up.FAMILIES, "image", "image:PATH"])


def tokens(family: str, shape: Shape, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [B, H, N, D] in float32 on the CPU.

    Raises:
        UsageError: an unknown family, or photographs that cannot be read.
    """
    name, _, path = family.partition(":")
    check(family)
    if name in made_up.FAMILIES:
        return made_up.tokens(family, shape, torch.Generator().manual_seed(seed))
    return _image_tokens(crops(path, shape.batch, (shape.rows * _PATCH, shape.cols * _PATCH), seed), shape)


def crops(path: str, count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Seeded windows of photographs, in turns, resized to `size`: [count, 3, rows, cols] with entries in 0..1.

    Args:
        path: a photograph or a folder of them; "" for those that scikit-learn ships.
    Raises:
        UsageError: photographs that cannot be read.
    """
    photographs, generator = _photographs(path), torch.Generator().manual_seed(seed)
    windows = []
    for index in range(seed, seed + count):  # so that several seeds see several photographs, whatever the batch
        crop = _crop(photographs[index % len(photographs)], size, generator)
        windows.append(F.interpolate(crop[None], size, mode="bilinear", antialias=True, align_corners=False))
    return torch.cat(windows)


def _image_tokens(pixels: Tensor, shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    pixels = (pixels - pixels.mean((0, 2, 3), keepdim=True)) / pixels.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    width_model, stem = shape.heads * shape.head_dim, torch.Generator().manual_seed(_STEM_SEED)
    patches = F.unfold(pixels, _PATCH, stride=_PATCH).transpose(1, 2)  # [B, N, 48]

    def weight(fan_in: int) -> Tensor:
        return torch.randn(fan_in, width_model, generator=stem, dtype=torch.float32) / fan_in**0.5

    x = F.layer_norm(patches @ weight(patches.shape[2]), (width_model,))  # [B, N, H D]

    def project() -> Tensor:
        projected: Tensor = x @ weight(width_model)
        return projected.view(shape.batch, shape.tokens, shape.heads, shape.head_dim).transpose(1, 2).contiguous()

    return project(), project(), project()


def _crop(photograph: Tensor, aspect: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A window of an aspect, rows to cols, of a seeded size at a seeded place. [3, h, w]"""
    _, height, width = photograph.shape
    part = _SMALLEST_CROP + (1 - _SMALLEST_CROP) * float(torch.rand(1, generator=generator))
    scale = part * min(height / aspect[0], width / aspect[1])
    h, w = max(1, int(aspect[0] * scale)), max(1, int(aspect[1] * scale))
    top = int(torch.randint(height - h + 1, (1,), generator=generator))
    left = int(torch.randint(width - w + 1, (1,), generator=generator))
    return photograph[:, top : top + h, left : left + w]


def _photographs(path: str) -> list[Tensor]:
    """RGB photographs [3, h, w] with entries in 0..1."""
    if not path:
        try:
            from sklearn.datasets import load_sample_images

            return [_to_tensor(image) for image in load_sample_images().images]  # imports Pillow
        except ImportError:
            raise UsageError("--inputs image needs scikit-learn and Pillow for its photographs: pip install"
                             " 'softbench[images]', or give your own with --inputs image:PATH.") from None
    if importlib.util.find_spec("PIL") is None:
        raise UsageError("--inputs image needs Pillow to read photographs: pip install 'softbench[images]'.")
    root = Path(path)
    try:
        files = sorted(p for p in root.iterdir() if not pictures.left_out(p.name)) if os.path.isdir(path) else [root]
    except OSError as error:
        raise UsageError(f"--inputs image: cannot read '{path}': {error.strerror}.") from None
    if not files:
        raise UsageError(f"--inputs image: no photographs in '{path}', of all the formats that Pillow opens.")
    return [_read(file) for file in files]


def _read(file: Path) -> Tensor:
    from PIL import Image, UnidentifiedImageError

    if os.path.exists(file) and not os.path.isfile(file):  # a pipe would keep Pillow waiting
        raise UsageError(f"--inputs image: '{file}' is no file.")
    try:
        return _to_tensor(np.asarray(pictures.opened(file)))
    except UnidentifiedImageError:
        raise UsageError(f"--inputs image: '{file}' is not a picture that Pillow can read.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # all of them from Pillow
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--inputs image: cannot read '{file}': {reason}.") from None


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
