"""Cases: what is measured, as data. A command's flags become a grid of cases before anything runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softbench import plugins
from softbench.dtypes import FLOAT32

MODES = ("forward", "backward", "forward_backward")
MAX_TOKENS = 1 << 26
WHOLE = "whole"  # the part of a model that is all of it
TIMM = "timm"


@dataclass(frozen=True)
class Shape:
    """Sizes of one call. Attention: q, k, v are [batch, heads, rows * cols, head_dim]. Model: images are
    [batch, 3, rows, cols], and heads and head_dim are 0. In a `causal` call a token sees itself and those before it."""

    batch: int
    heads: int
    rows: int
    cols: int
    head_dim: int
    causal: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.cols

    @property
    def grid(self) -> tuple[int, int]:
        return self.rows, self.cols


@dataclass(frozen=True)
class AttentionSpec:
    """One item of `--attn`: a plugin's name or path, the options given with it, and its implementation.

    `softmax:impl=math` is the spec ("softmax", {}, "math"); `impl` None means the command's `--impl`.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    impl: str | None = None

    @property
    def label(self) -> str:
        """How tables call it: `soft`, `soft:landmarks=64`, `softmax:impl=math`."""
        return _label(plugins.display_name(self.name), self.options, self.impl)


@dataclass(frozen=True)
class ModelSpec:
    """One item of `--model`: a whole backbone, or one part of it.

    Attributes:
        name: `soft-tiny`, `./mine.py-tiny`, `timm:resnet18`.
        options: of the attention inside, or, for timm, arguments of the model's constructor.
        part: "whole", or a stage as `--by-stage` counts them.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    impl: str | None = None
    part: str = WHOLE

    @property
    def timm(self) -> str:
        """The model's name within timm; empty for one of softbench's own."""
        kind, _, name = self.name.partition(":")
        return name if kind == TIMM else ""

    @property
    def display_name(self) -> str:
        """The arch, without the folder of an attention that is a file."""
        return self.name if self.timm else Path(self.name).name.replace(".py-", "-")

    @property
    def label(self) -> str:
        """How tables call it, whichever part it is: `soft-tiny:landmarks=64`, `timm:resnet18`."""
        return _label(self.display_name, self.options, self.impl)


Spec = AttentionSpec | ModelSpec


@dataclass(frozen=True)
class Case:
    """One point of one subject: everything that decides what is run, and nothing about how it is measured."""

    spec: Spec
    shape: Shape
    dtype: str = FLOAT32
    device: str = "cpu"
    mode: str = "forward"
    impl: str = "auto"
    inputs: str = "normal"
    seed: int = 0

    def point(self) -> tuple[Any, ...]:
        """Cases must share this for their numbers to stand side by side."""
        return self.shape, self.dtype, self.device, self.mode, self.inputs, self.seed

    def __str__(self) -> str:
        """Say in a few words what is running: `soft, N = 1,024`, `soft-tiny, 224x224, batch 8, stage2`."""
        s = self.shape
        if isinstance(self.spec, AttentionSpec):
            return f"{self.spec.label}, N = {s.tokens:,}"
        part = "" if self.spec.part == WHOLE else f", {self.spec.part}"
        return f"{self.spec.label}, {s.rows}x{s.cols}, batch {s.batch}{part}"


def grid_of_cases(specs: Sequence[Spec], shapes: Sequence[Shape], *, dtypes: Sequence[str], modes: Sequence[str],
                  impl: str = "auto", **same: Any) -> list[Case]:
    """The product of all lists; cases that share a point are neighbours, specs in the order given.

    A spec that names its own implementation keeps it, whatever `impl` says.
    """
    return [Case(spec, shape, dtype=dtype, mode=mode, impl=spec.impl or impl, **same)
            for mode, dtype, shape in itertools.product(modes, dtypes, shapes) for spec in specs]


def token_shapes(grids: Sequence[tuple[int, int]], batches: Sequence[int], heads: Sequence[int],
                 head_dims: Sequence[int], causal: bool = False) -> list[Shape]:
    """Shapes of attention calls, the grid of tokens varying fastest."""
    return [Shape(b, h, rows, cols, d, causal)
            for b, h, d, (rows, cols) in itertools.product(batches, heads, head_dims, grids)]


def image_shapes(images: Sequence[tuple[int, int]], batches: Sequence[int]) -> list[Shape]:
    """Shapes of calls of a model, the size of the image varying fastest."""
    return [Shape(batch, 0, rows, cols, 0) for batch, (rows, cols) in itertools.product(batches, images)]


def most_square(tokens: int) -> tuple[int, int]:
    """The grid rows x cols = tokens, rows <= cols, that is nearest to a square: 196 -> 14x14, 8,192 -> 64x128."""
    rows = next(r for r in range(math.isqrt(tokens), 0, -1) if tokens % r == 0)
    return rows, tokens // rows


def _label(name: str, options: dict[str, Any], impl: str | None) -> str:
    extra = options | ({"impl": impl} if impl else {})
    return ":".join([name, *(f"{key}={_plain(value)}" for key, value in extra.items())])


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
