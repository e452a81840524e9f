"""Plausible: what the parts of a record can be. What no run gives is left out where it is read, with its reason.

A reader of records may rely on all of this; nothing else looks at types or ranges. What is not listed may be anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_NAMES = ("measure", "quantity", "mode", "impl", "dtype", "device", "started")
_LABELS = ("attention", "model", "label")
_NAME, _LABEL = 100, 4200  # characters: a path may have 4,096
_COUNTS = {"batch": 0, "heads": 0, "head_dim": 0, "rows": 1, "cols": 1}  # and the least of them
_LARGEST = 2**40
_RESERVED = ("tokens", "q1", "q3")  # columns of a frame beside the fields of a record

# The least and largest value by unit: 30 years, a yottabyte, and what may come of an iteration that diverges.
_RANGES = {"s": (0.0, 1e9), "B": (0.0, 1e24), "flop": (0.0, 1e30), "1": (-1e300, 1e300),
           "image/s": (0.0, 1e15), "sample/s": (0.0, 1e15), "B/s": (0.0, 1e24), "flop/s": (0.0, 1e30)}
_WIDEST = 1e300

_Check = Callable[[Any], bool]


def check(data: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Raise ValueError with a short reason for what cannot be; types of fields and units are checked before.

    Fields that do not exist are not in `data`.
    """
    for name in (*_NAMES, *_LABELS):
        most, text = _LABEL if name in _LABELS else _NAME, data.get(name) or ""
        if len(text) > most:
            raise ValueError(f"{name} has {len(text):,} characters, and {most:,} at most can be")
    for name, least in _COUNTS.items():
        if (count := data.get(name)) is not None and not least <= count <= _LARGEST:
            raise ValueError(f"{name} is {count}, which cannot be")
    low, high = _RANGES[data["unit"]]
    for value in (data["value"], *data["samples"]):
        if value is not None and not low <= value <= high:
            raise ValueError(f"{value:g} {data['unit']} cannot be".replace(" 1 ", " "))
    for name in data["coords"]:
        if name in fields or name in _RESERVED or name.startswith("env."):
            raise ValueError(f"the coordinate '{name[:_NAME]}' has the name of a field")
    _check_entries("coords", data["coords"], _COORDS)
    _check_entries("environment", data["environment"], _ENVIRONMENT)
    _check_entries("detail", data["detail"], _DETAIL)


def _check_entries(what: str, entries: Mapping[str, Any], checks: Mapping[str, _Check]) -> None:
    for key, right in checks.items():
        if key in entries and not right(entries[key]):
            raise ValueError(f"{what}.{key} is not what it must be")


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | bool | int | float)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _WIDEST


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _maybe(right: _Check) -> _Check:
    return lambda value: value is None or right(value)


def _several(right: _Check, count: int | None = None) -> _Check:
    return lambda value: (isinstance(value, list) and (count is None or len(value) == count)
                          and all(map(right, value)))


def _with(**checks: _Check) -> _Check:
    return lambda value: isinstance(value, dict) and all(key in value and right(value[key])
                                                         for key, right in checks.items())


_LIMIT = _with(bandwidth=_positive, flop_rate=_positive, floor=_positive)
_PAIR = _several(_number, 2)
_COORDS: dict[str, _Check] = {"task": _text, "run": _text, "part": _text, "inputs": _scalar}
_ENVIRONMENT: dict[str, _Check] = dict.fromkeys(
    ("machine", "threads", "malloc", "denormals", "tf32", "torch", "cuda", "gpu", "cpu", "commit", "dirty",
     "cpu_capability", "driver", "triton", "python", "os", "cores", "command", "code", "plugins", "cpu_quota"), _scalar)
_DETAIL: dict[str, _Check] = {
    "ci95": _several(_maybe(_number), 2),
    "trace": _several(_maybe(_number)),
    "curve": _several(_several(_positive, 2)), "breaks": _several(_positive), "exponents": _several(_number),
    "intervals": _several(_PAIR), "again": _several(_several(_number)),
    "samples_per_round": _several(lambda value: type(value) is int and value >= 0),
    "work": _with(bytes=_positive, flops=_number),
    "limit": lambda value: _number(value) or _LIMIT(value),  # a study's is a length
    "foreign_cpu": _maybe(_number), "calls_per_sample": _positive, "group": _maybe(_text), "printed": _scalar,
    "part": _scalar, "settings": lambda value: isinstance(value, dict),
}
