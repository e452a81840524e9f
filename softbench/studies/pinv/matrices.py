"""Families of m x m matrices for the study of inverses: Gaussian kernels of landmarks, and synthetic ones.

A family is written `name` or `name:parameter`. All matrices are [count, m, m], float64, symmetric, seeded. Kernels are
k(l, l) with k(a, b) = exp(-|a - b|^2 / 2) of landmarks l [count, m, d] on the most square grid of m places:

- `normal:S`: independent normal entries times S; at 1 and d = 32 the landmarks are far apart, and A is nearly I.
- `gelu:S`: GELU(LayerNorm(normal)) times S: what SOFT's sampling gives for unrelated tokens.
- `smooth:S`: GELU(LayerNorm(mean + 0.6 field + 0.1 noise)) times S, where the field is a cubic interpolation of 3 x 3
  normal vectors: neighbours are alike, as in an image. S = 1 is moderately ill-conditioned, 0.5 near-duplicate.
- `clustered:S`: GELU(LayerNorm(centre + 0.05 noise)) times S, with 6 centres.
- `duplicate:R`: R different landmarks at scale 0.5, each repeated: A has rank R.
- `constant`: all landmarks alike, as of a blank image: A is all ones.
- `image[:PATH]`: photographs (see `softbench.inputs`), two heads of each of several crops, 4 x 4 tokens averaged to a
  landmark and divided by d^(1/4).
- `backbone:stage2`: what SOFT inverts in a stage of soft-tiny with initial weights, on photographs (`_backbone`).
- `checkpoint:SOURCE@stage2`: the same of any backbone, by its file.
- `condition:K`: synthetic, in a random basis: A + ridge I has eigenvalues in a geometric series from s / K to s, with
  s the larger of 1 and ridge K, so that A is positive semi-definite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from softbench import inputs
from softbench.attention._landmarks import avg_pool
from softbench.case import Shape, most_square
from softbench.errors import Unsupported, UsageError, unknown
from softbench.ops.gaussian_attention import gaussian_kernel

_CAPTURED = ("backbone", "checkpoint")
_DEFAULT_ARCH = "soft-tiny"


@dataclass(frozen=True)
class Sizes:
    """How many matrices, how large, of landmarks of what dimension, for inversion with what ridge."""

    count: int
    m: int
    head_dim: int
    ridge: float


def check(family: str) -> None:
    """Raise UsageError unless the family exists and its parameter is right. Missing photographs are found later."""
    name, colon, parameter = family.partition(":")
    if name not in FAMILIES:
        raise unknown("family of matrices", name, FAMILIES)
    if colon and not parameter:
        raise UsageError(f"matrices: nothing after the colon of '{family}': give a parameter, or leave the colon out.")
    if name in _CAPTURED:
        _backbone().check(_place(family))
    elif name == "image":
        if parameter:
            inputs.check(family)
    elif name == "constant":
        if parameter:
            raise UsageError(f"matrices: 'constant' takes no parameter, but '{family}' gives one.")
    elif parameter and _number(family) < 1 and name == "condition":
        raise UsageError(f"matrices: a condition number is at least 1, not {parameter}.")


def identity(family: str) -> str:
    """The family, with a digest of the file that it names."""
    name = family.partition(":")[0]
    return f"{name}:{_backbone().identity(_place(family))}" if name in _CAPTURED else family


def make(family: str, sizes: Sizes, seed: int) -> Tensor:
    """The matrices of a family, [count, m, m].

    Raises:
        Unsupported: the photographs that it needs are not installed.
    """
    name = family.partition(":")[0]
    generator = torch.Generator().manual_seed(seed)
    return FAMILIES[name](family, sizes, generator)


def _normal(family: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    return _kernel(_number(family, 1.0) * _randn(sizes, generator))


def _gelu(family: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    return _kernel(_number(family, 0.5) * _activated(_randn(sizes, generator)))


def _smooth(family: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    mean = torch.randn(sizes.count, 1, sizes.head_dim, generator=generator, dtype=torch.float64)
    coarse = torch.randn(sizes.count, sizes.head_dim, 3, 3, generator=generator, dtype=torch.float64)
    field = F.interpolate(coarse, most_square(sizes.m), mode="bicubic", align_corners=True).flatten(2).mT
    return _kernel(_number(family, 0.5) * _activated(mean + 0.6 * field + 0.1 * _randn(sizes, generator)))


def _clustered(family: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    centres = torch.randn(sizes.count, 6, sizes.head_dim, generator=generator, dtype=torch.float64)
    which = torch.randint(6, (sizes.count, sizes.m, 1), generator=generator)
    tokens = centres.gather(1, which.expand(-1, -1, sizes.head_dim))
    return _kernel(_number(family, 0.5) * _activated(tokens + 0.05 * _randn(sizes, generator)))


def _duplicate(family: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    rank = max(1, min(sizes.m, int(_number(family, sizes.m // 2))))
    return _kernel(0.5 * _activated(_randn(sizes, generator))[:, torch.arange(sizes.m) % rank])


def _constant(family: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    return torch.ones(sizes.count, sizes.m, sizes.m, dtype=torch.float64)


def _image(family: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    rows, cols = most_square(sizes.m)
    shape = Shape(math.ceil(sizes.count / 2), 2, 4 * rows, 4 * cols, sizes.head_dim)
    try:
        tokens, _, _ = inputs.tokens(family, shape, generator.initial_seed())
    except UsageError as error:
        raise Unsupported(str(error)) from None
    landmarks = avg_pool(tokens.double() * sizes.head_dim**-0.25, shape.grid, (rows, cols))
    return _kernel(landmarks.flatten(0, 1)[:sizes.count])


def _captured(family: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    landmarks: Tensor = _backbone().landmarks(_place(family), sizes.count, sizes.m, sizes.head_dim,
                                              generator.initial_seed())
    return _kernel(landmarks)


def _place(family: str) -> str:
    """`backbone:stage2` -> the place as `_backbone` writes it."""
    name, _, place = family.partition(":")
    return f"{_DEFAULT_ARCH}@{place or 'stage1'}" if name == "backbone" else place


def _backbone() -> ModuleType:
    from softbench.inputs import captured  # imports timm, which takes seconds

    return captured


def _condition(family: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    condition = _number(family, 1000.0)
    basis = torch.linalg.qr(torch.randn(sizes.count, sizes.m, sizes.m, generator=generator, dtype=torch.float64)).Q
    values = torch.logspace(-math.log10(condition), 0, sizes.m, dtype=torch.float64)
    values = values * max(1.0, sizes.ridge * condition)
    a = (basis * (values - sizes.ridge).clamp_min(0)) @ basis.mT
    return (a + a.mT) / 2


FAMILIES: dict[str, Callable[[str, Sizes, torch.Generator], Tensor]] = {
    "normal": _normal, "gelu": _gelu, "smooth": _smooth, "clustered": _clustered, "duplicate": _duplicate,
    "constant": _constant, "image": _image, "backbone": _captured, "checkpoint": _captured, "condition": _condition}


def _number(family: str, default: float = 0.0) -> float:
    """Return the parameter of a family, or its default."""
    name, _, text = family.partition(":")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(f"matrices: '{text}' in '{family}' must be a number from 0. Write it as {name}:0.5.")
    return value


def _randn(sizes: Sizes, generator: torch.Generator) -> Tensor:
    return torch.randn(sizes.count, sizes.m, sizes.head_dim, generator=generator, dtype=torch.float64)


def _activated(x: Tensor) -> Tensor:
    return F.gelu(F.layer_norm(x, x.shape[-1:]))


def _kernel(landmarks: Tensor) -> Tensor:
    return gaussian_kernel(landmarks.unsqueeze(1)).squeeze(1)
