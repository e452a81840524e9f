"""Parsing: what a user writes becomes a value, by one parser for each kind of value, whichever command has the flag.

Each takes the text and the flag or setting that it was given for, which its message names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from softbench.case import MAX_TOKENS, MODES, TIMM, AttentionSpec, ModelSpec, Spec
from softbench.dtypes import NAMES
from softbench.errors import UsageError, unknown

_SUFFIX = {"": 1, "k": 1024, "m": 1024**2}
_ALIASES = {"training": "forward_backward"}  # of modes
_BYTES = {"": 1, "b": 1} | {f"{prefix}{unit}": base**power for power, prefix in enumerate("kmgt", 1)
                            for unit, base in (("b", 1000), ("ib", 1024))}
_MOST_BYTES = 1 << 60
_EXAMPLES = {"--attn": "soft:landmarks=64", "--task": "needle:tokens=256"}
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def attentions(text: str, flag: str = "--attn") -> list[AttentionSpec]:
    """`soft,soft:landmarks=64:inverse=cholesky,./mine.py` -> specs. The syntax is checked, not the names."""
    specs = []
    for item in _items(text, flag):
        name, *pairs = item.split(":")
        options = _options(pairs, item, flag)
        specs.append(AttentionSpec(name, options, options.pop("impl", None)))
    _once(specs, flag)
    return specs


def task(text: str, flag: str = "--task") -> tuple[str, dict[str, Any]]:
    """`mqar:pairs=16`, `./mine.py` -> a task's name and its settings. The syntax is checked, not the names."""
    name, *pairs = text.strip().split(":")
    return name, _options(pairs, text, flag)


def splits(text: str) -> tuple[str, str]:
    """The two names of `--splits`. Raises UsageError where they are not two."""
    train, comma, val = text.partition(",")
    if not comma or not train or not val or "," in val:
        raise UsageError(f"--splits takes two names, as in train,validation; not '{text}'.")
    return train, val


def models(text: str, flag: str = "--model") -> list[ModelSpec]:
    """`soft-tiny,soft-tiny:landmarks=64,timm:resnet18` -> specs. The syntax is checked, not the names.

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
    _once(specs, flag)
    return specs


def _once(specs: Sequence[Spec], flag: str) -> None:
    labels = [spec.label for spec in specs]
    if twice := next((label for label in labels if labels.count(label) > 1), ""):
        raise UsageError(f"{flag}: '{twice}' is named twice.")


def _options(pairs: Sequence[str], item: str, flag: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise UsageError(f"{flag}: '{pair}' in '{item}' is not an option. Write name:key=value, as in"
                             f" {_EXAMPLES.get(flag, 'soft-tiny:landmarks=64')}.")
        if key in options:
            raise UsageError(f"{flag}: option '{key}' is given twice in '{item}'.")
        options[key] = value
    return options


def count(text: str, what: str) -> int:
    """A positive whole number; the suffix k means 1,024 and m 1,048,576."""
    match = re.fullmatch(r"(\d+)([km]?)", text.strip().lower())
    if not match:
        raise UsageError(f"{what}: '{text}' is not a positive whole number. Write it as 196, 4k (4,096) or 1m.")
    digits = match[1].lstrip("0")[:18] or "0"  # 18 are too many already, and int() refuses thousands
    number = int(digits) * _SUFFIX[match[2]]
    if number < 1:
        raise UsageError(f"{what} must be at least 1, not {text}.")
    if number > MAX_TOKENS:
        raise UsageError(f"{what} must be at most {MAX_TOKENS:,}, not {text}.")
    return number


def counts(text: str, what: str) -> list[int]:
    """A comma-separated list of counts; `4k..64k` doubles from 4,096 until 65,536."""
    numbers: list[int] = []
    for item in _items(text, what):
        first, dots, last = item.partition("..")
        low = count(first, what)
        high = count(last, what) if dots else low
        if high < low:
            raise UsageError(f"{what}: the range '{item}' ends before it starts. Write it as {last}..{first}.")
        while low <= high:
            numbers.append(low)
            low *= 2
    return list(dict.fromkeys(numbers))


def token_range(low: str, high: str) -> tuple[int, int]:
    """Return the lengths from `--min-tokens` to `--max-tokens`."""
    shortest, longest = count(low, "--min-tokens"), count(high, "--max-tokens")
    if shortest > longest:
        raise UsageError(f"--min-tokens {shortest:,} is above --max-tokens {longest:,}. Swap them.")
    return shortest, longest


def grids(text: str) -> list[tuple[int, int]]:
    """`56x56,7x9` -> rows and columns of tokens."""
    sizes = []
    for item in _items(text, "--grid"):
        match = re.fullmatch(r"(\d+)[x×](\d+)", item.strip().lower())
        if not match:
            raise UsageError(f"--grid: '{item}' is not a grid. Write rows x columns, as in 56x56.")
        rows, cols = count(match[1], "--grid"), count(match[2], "--grid")
        count(str(rows * cols), "--grid: the number of tokens")
        sizes.append((rows, cols))
    return list(dict.fromkeys(sizes))


def images(text: str) -> list[tuple[int, int]]:
    """`224,512x384` -> heights and widths in pixels; one number is the side of a square."""
    sizes = []
    for item in _items(text, "--image"):
        match = re.fullmatch(r"(\d+)(?:[x×](\d+))?", item.strip().lower())
        if not match:
            raise UsageError(f"--image: '{item}' is not an image size. Write a side in pixels, or height x width, as in"
                             " 224 or 512x384.")
        height, width = (count(side, "--image") for side in (match[1], match[2] or match[1]))
        count(str(height * width), "--image: the number of pixels")
        sizes.append((height, width))
    return list(dict.fromkeys(sizes))


def choices(values: Iterable[str], valid: Sequence[str], what: str) -> list[str]:
    """The values without repeats, each one of `valid`."""
    chosen = list(dict.fromkeys(value.strip() for value in values))
    for value in chosen:
        if value not in valid:
            raise unknown(what, value, valid)
    return chosen


def modes(text: str, valid: Sequence[str] = MODES) -> list[str]:
    """`forward,training` -> modes without repeats; "training" is another word for forward_backward."""
    aliases = {alias: name for alias, name in _ALIASES.items() if name in valid}
    chosen = choices(text.split(","), [*valid, *aliases], "mode")
    return list(dict.fromkeys(aliases.get(name, name) for name in chosen))


def dtypes(text: str) -> list[str]:
    """`float32,bfloat16` -> dtypes without repeats."""
    return choices(text.split(","), NAMES, "dtype")


def memory(text: str, what: str, least: int = 1 << 20) -> int:
    """Bytes: `2GiB` and `512 MiB` (powers of two), `2GB` (powers of ten), or a plain number of bytes."""
    number, unit = _amount(text)
    amount = number * _BYTES.get(unit, math.nan)
    if math.isnan(amount):
        raise UsageError(f"{what}: '{text}' is not an amount of memory. Write it as 2GiB, 512MiB, 2GB or a number of"
                         " bytes.")
    if not 1 <= amount < _MOST_BYTES:
        raise UsageError(f"{what} must be more than 0 and less than 1,048,576 TiB, not {text}.")
    if amount < least:
        raise UsageError(f"{what} must be at least {least >> 20}MiB, not {text}. A number without a unit counts bytes.")
    return int(amount)


def seconds(text: str, what: str, low: float = 1e-6, high: float = 86_400.0) -> float:
    """Seconds: `200us`, `50ms`, `2s`, `1.5m`, `1h`, or a plain number of seconds."""
    time = span(text, "s")
    if math.isnan(time):
        raise UsageError(f"{what}: '{text}' is not a time. Write it as 50ms, 2s, 1m or a number of seconds.")
    if not low <= time <= high:
        raise UsageError(f"{what} must be from {_time(low)} to {_time(high)}, not {text}.")
    return time


def span(text: str, unit: str) -> float:
    """A time in this unit, which is that of a plain number too; nan where the text is no time."""
    number, own = _amount(text)
    return number * (_SECONDS.get(own or unit, math.nan) / _SECONDS[unit])


def _amount(text: str) -> tuple[float, str]:
    """A number and its unit in lower case; nan where it is not finite or there is none."""
    match = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*([a-zµ]*)", text.strip().lower(), re.ASCII)
    number = float(match[1]) if match else math.nan
    return (number, match[2]) if match and math.isfinite(number) else (math.nan, "")


def _time(seconds: float) -> str:
    unit = next(unit for unit in ("h", "m", "s", "ms", "us") if seconds >= _SECONDS[unit] or unit == "us")
    return f"{seconds / _SECONDS[unit]:g}{unit}"


def _items(text: str, what: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise UsageError(f"{what}: an item of '{text}' is empty. Separate items by single commas.")
    return items
