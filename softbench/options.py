"""Options: a frozen dataclass is the one description of a set of keys, their types, bounds, defaults and help.

Attentions, measures and `bench.toml` sections all declare their options this way, so that one parser serves
`--attn soft:landmarks=64`, `--set latency.rep=200`, TOML tables and Python keyword arguments alike.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

from softbench import parsing
from softbench.errors import PluginError, UsageError, unknown

_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def option(default: Any, help: str, *, low: float | None = None, high: float | None = None, size: bool = False,
           unit: str = "") -> Any:
    """A dataclass field with a one-line help and inclusive bounds.

    Args:
        size: of an attention's options, that this one is m, the number of landmarks, features or the like that its
            accuracy is bought with; a whole number, and one option at most.
        unit: of a float that is a time, "s" or "ms"; text may give another with the number, as in 2m or 50ms.
    """
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high, "size": size,
                                                   "unit": unit})


def parse(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of the options dataclass `cls` from `values`; strings are converted, anything else is checked.

    Args:
        where: what the options belong to, for messages ("attention 'soft'").
    Raises:
        UsageError: an unknown key, a value of the wrong type, or one out of bounds.
        PluginError: a field of a type that options cannot have.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    parsed = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown(f"option of {where}", key, fields)
        parsed[key] = _value(value, types(cls)[key], f"{where}: {key}", fields[key].metadata.get("unit", ""))
        _check_bounds(parsed[key], fields[key], f"{where}: {key}")
    return cls(**parsed)


@functools.cache
def types(cls: type) -> dict[str, Any]:
    """Field name -> resolved type of an options dataclass."""
    return typing.get_type_hints(cls)


def to_dict(options: Any) -> dict[str, Any]:
    """Return the options as plain JSON values, in declaration order."""
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}


def describe(cls: type) -> list[tuple[str, str, Any, str]]:
    """(name, type in words, default, help) for each option."""
    return [(f.name, _in_words(types(cls)[f.name]), f.default, f.metadata.get("help", ""))
            for f in dataclasses.fields(cls)]


def _in_words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " | ".join(str(choice) for choice in typing.get_args(kind))
    return getattr(kind, "__name__", str(kind))


def _value(value: Any, kind: Any, where: str, unit: str = "") -> Any:
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        for choice in choices:
            if value == str(choice) or (type(value) is type(choice) and value == choice):
                return choice
        raise UsageError(f"{where} must be one of {', '.join(map(str, choices))}, not '{value}'.")
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
    elif kind is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                pass
    elif kind is float:
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                number = parsing.span(value, unit) if unit and isinstance(value, str) else float(value)
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return number
    elif kind is str:
        if isinstance(value, str):
            return value
    else:
        raise PluginError(f"{where} is declared as {kind}; options are bool, int, float, str or Literal.")
    time = f" of {unit}, or a time such as 50ms or 2m" if unit else ""
    raise UsageError(f"{where} must be {_article(kind)}{time}, not '{value}'.")


def _article(kind: type) -> str:
    return {"int": "a whole number", "float": "a finite number", "bool": "true or false", "str": "text"}[kind.__name__]


def _check_bounds(value: Any, field: dataclasses.Field[Any], where: str) -> None:
    low, high = field.metadata.get("low"), field.metadata.get("high")
    if low is not None and value < low:
        raise UsageError(f"{where} must be at least {low}, not {value}.")
    if high is not None and value > high:
        raise UsageError(f"{where} must be at most {high}, not {value}.")
