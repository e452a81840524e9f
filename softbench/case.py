"""Cases: what is measured, as data. A command's flags become a grid of cases before anything runs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softbench import plugins
from softbench.dtypes import FLOAT32
from softbench.errors import UsageError, unknown

MODES = ("forward", "backward", "forward_backward")
TRAINING = {"training": "forward_backward"}  # what some studies call it
MAX_TOKENS = 1 << 26
WHOLE = "whole"  # the part of a model that is all of it
TIMM = "timm"
_SUFFIX = {"": 1, "k": 1024, "m": 1024**2}


@dataclass(frozen=True)
class Shape:
    """Sizes of one call. Attention: q, k, v are [batch, heads, rows * cols, head_dim]. Model: images are
    [batch, 3, rows, cols], and heads and head_dim are 0."""

    batch: int
    heads: int
    rows: int
    cols: int
    head_dim: int

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
        """What cases must share for their numbers to stand side by side."""
        return self.shape, self.dtype, self.device, self.mode, self.inputs, self.seed

    def __str__(self) -> str:
        """What is running, in a few words: `soft, N = 1,024`, `soft-tiny, 224x224, batch 8, stage2`."""
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
                 head_dims: Sequence[int]) -> list[Shape]:
    """Shapes of attention calls, the grid of tokens varying fastest."""
    return [Shape(b, h, rows, cols, d) for b, h, d, (rows, cols) in itertools.product(batches, heads, head_dims, grids)]


def image_shapes(images: Sequence[tuple[int, int]], batches: Sequence[int]) -> list[Shape]:
    """Shapes of calls of a model, the size of the image varying fastest."""
    return [Shape(batch, 0, rows, cols, 0) for batch, (rows, cols) in itertools.product(batches, images)]


def parse_attentions(text: str, flag: str = "--attn") -> list[AttentionSpec]:
    """`soft,soft:landmarks=64:inverse=cholesky,./mine.py` -> specs. Only the syntax is checked, not the names."""
    specs = []
    for item in _items(text, flag):
        name, *pairs = item.split(":")
        options = _options(pairs, item, flag)
        specs.append(AttentionSpec(name, options, options.pop("impl", None)))
    return specs


def parse_models(text: str, flag: str = "--model") -> list[ModelSpec]:
    """`soft-tiny,soft-tiny:landmarks=64,timm:resnet18` -> specs. Only the syntax is checked, not the names.

    What follows `timm:` is the name; options come after it, as in `timm:pvt_v2_b1:drop_path_rate=0.1`.
    """
    specs = []
    for item in _items(text, flag):
        name, *pairs = item.split(":")
        if name == TIMM:
            if not pairs or not pairs[0]:
                raise UsageError(f"{flag}: '{item}' names no model. Write timm:NAME, as in timm:resnet18.")
            name = f"{name}:{pairs.pop(0)}"
        options = _options(pairs, item, flag)
        specs.append(ModelSpec(name, options, options.pop("impl", None)))
    return specs


def _options(pairs: Sequence[str], item: str, flag: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"{flag}: '{pair}' in '{item}' is not an option. Write name:key=value, as in"
                             f" {'soft' if flag == '--attn' else 'soft-tiny'}:landmarks=64.")
        if key in options:
            raise UsageError(f"{flag}: option '{key}' is given twice in '{item}'.")
        options[key] = value
    return options


def parse_count(text: str, what: str) -> int:
    """A positive whole number; the suffix k means 1,024 and m 1,048,576."""
    match = re.fullmatch(r"(\d+)([km]?)", text.strip().lower())
    if not match:
        raise UsageError(f"{what}: '{text}' is not a positive whole number. Write it as 196, 4k (4,096) or 1m.")
    digits = match[1].lstrip("0")[:18] or "0"  # 18 are too many already, and int() refuses thousands
    count = int(digits) * _SUFFIX[match[2]]
    if count < 1:
        raise UsageError(f"{what} must be at least 1, not {text}.")
    if count > MAX_TOKENS:
        raise UsageError(f"{what} must be at most {MAX_TOKENS:,}, not {text}.")
    return count


def parse_counts(text: str, what: str) -> list[int]:
    """A comma-separated list of counts; `4k..64k` doubles from 4,096 until 65,536."""
    counts: list[int] = []
    for item in _items(text, what):
        first, dots, last = item.partition("..")
        low = parse_count(first, what)
        high = parse_count(last, what) if dots else low
        if high < low:
            raise UsageError(f"{what}: the range '{item}' ends before it starts. Write it as {last}..{first}.")
        while low <= high:
            counts.append(low)
            low *= 2
    return list(dict.fromkeys(counts))


def parse_grids(text: str) -> list[tuple[int, int]]:
    """`56x56,7x9` -> rows and columns of tokens."""
    grids = []
    for item in _items(text, "--grid"):
        match = re.fullmatch(r"(\d+)[x×](\d+)", item.strip().lower())
        if not match:
            raise UsageError(f"--grid: '{item}' is not a grid. Write rows x columns, as in 56x56.")
        rows, cols = parse_count(match[1], "--grid"), parse_count(match[2], "--grid")
        parse_count(str(rows * cols), "--grid: the number of tokens")
        grids.append((rows, cols))
    return list(dict.fromkeys(grids))


def parse_images(text: str) -> list[tuple[int, int]]:
    """`224,512x384` -> heights and widths in pixels; one number is the side of a square."""
    images = []
    for item in _items(text, "--image"):
        match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", item.strip().lower())
        if not match:
            raise UsageError(f"--image: '{item}' is not an image size. Write a side in pixels, or height x width, as in"
                             " 224 or 512x384.")
        height, width = (parse_count(side, "--image") for side in (match[1], match[2] or match[1]))
        parse_count(str(height * width), "--image: the number of pixels")
        images.append((height, width))
    return list(dict.fromkeys(images))


def most_square(tokens: int) -> tuple[int, int]:
    """The grid rows x cols = tokens, rows <= cols, that is nearest to a square: 196 -> 14x14, 8,192 -> 64x128."""
    rows = next(r for r in range(math.isqrt(tokens), 0, -1) if tokens % r == 0)
    return rows, tokens // rows


def check_choices(values: Iterable[str], valid: Sequence[str], what: str) -> list[str]:
    """The values without repeats, each one of `valid`."""
    chosen = list(dict.fromkeys(value.strip() for value in values))
    for value in chosen:
        if value not in valid:
            raise unknown(what, value, valid)
    return chosen


def _items(text: str, what: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise UsageError(f"{what}: an item of '{text}' is empty. Separate items by single commas.")
    return items


def _label(name: str, options: dict[str, Any], impl: str | None) -> str:
    extra = options | ({"impl": impl} if impl else {})
    return ":".join([name, *(f"{key}={_plain(value)}" for key, value in extra.items())])


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
