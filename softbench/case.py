"""Cases: what is measured, as data. A command's flags become a grid of cases before anything runs."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from softbench import plugins
from softbench.errors import UsageError, unknown

DTYPES = ("float32", "bfloat16", "float16", "float64")
MODES = ("forward", "backward", "forward_backward")
MAX_TOKENS = 1 << 26
_SUFFIX = {"": 1, "k": 1024, "m": 1024**2}


@dataclass(frozen=True)
class Shape:
    """Sizes of one attention call: q, k, v are [batch, heads, rows * cols, head_dim]."""

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
        extra = dict(self.options) | ({"impl": self.impl} if self.impl else {})
        return ":".join([plugins.display_name(self.name), *(f"{k}={_plain(v)}" for k, v in extra.items())])


@dataclass(frozen=True)
class Case:
    """One point of one subject: everything that decides what is run, and nothing about how it is measured."""

    attention: AttentionSpec
    shape: Shape
    dtype: str = "float32"
    device: str = "cpu"
    mode: str = "forward"
    impl: str = "auto"
    inputs: str = "normal"
    seed: int = 0

    def point(self) -> tuple[Any, ...]:
        """What cases must share for their numbers to stand side by side."""
        return self.shape, self.dtype, self.device, self.mode, self.inputs, self.seed

    def __str__(self) -> str:
        s = self.shape
        return (f"{self.attention.label} N={s.tokens} ({s.rows}x{s.cols}) B={s.batch} H={s.heads} D={s.head_dim}"
                f" {self.dtype} {self.mode} on {self.device}")


def grid_of_cases(attentions: Sequence[AttentionSpec], grids: Sequence[tuple[int, int]], *, batches: Sequence[int],
                  heads: Sequence[int], head_dims: Sequence[int], dtypes: Sequence[str], modes: Sequence[str],
                  impl: str = "auto", **same: Any) -> list[Case]:
    """The product of all lists; cases that share a point are neighbours, attentions in the order given.

    An attention that names its own implementation keeps it, whatever `impl` says.
    """
    points = itertools.product(modes, dtypes, batches, heads, head_dims, grids)
    return [Case(attention, Shape(b, h, rows, cols, d), dtype=dtype, mode=mode, impl=attention.impl or impl, **same)
            for mode, dtype, b, h, d, (rows, cols) in points for attention in attentions]


def parse_attentions(text: str) -> list[AttentionSpec]:
    """`soft,soft:landmarks=64:inverse=cholesky,./mine.py` -> specs. Only the syntax is checked, not the names."""
    specs = []
    for item in _items(text, "--attn"):
        name, *pairs = item.split(":")
        options: dict[str, Any] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not key or not value:
                raise UsageError(f"--attn: '{pair}' in '{item}' is not an option. Write name:key=value, as in"
                                 " soft:landmarks=64.")
            if key in options:
                raise UsageError(f"--attn: option '{key}' is given twice in '{item}'.")
            options[key] = value
        specs.append(AttentionSpec(name, options, options.pop("impl", None)))
    return specs


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


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
