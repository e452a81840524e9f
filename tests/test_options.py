"""Options: every source of a value, every type, every way to be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from softbench import options
from softbench.errors import PluginError, UsageError
from softbench.options import option


@dataclass(frozen=True)
class Everything:
    whole: int = option(4, "a number", low=1, high=2**31 - 1)
    real: float = option(0.5, "a fraction", low=0.0, high=1e6)
    yes: bool = option(True, "a switch")
    word: str = option("a", "some text")
    choice: Literal["avg", "conv"] = option("avg", "one of two")
    sizes: Literal[1, 2] = option(1, "one of two numbers")


def value(**given: Any) -> Any:
    parsed = options.parse(Everything, given, "attention 'x'")
    return getattr(parsed, next(iter(given)))


@pytest.mark.parametrize(("key", "given", "expected"), [
    ("whole", "64", 64), ("whole", 64, 64), ("whole", " 7 ", 7), ("whole", 2**31 - 1, 2**31 - 1),
    ("real", "1e-3", 1e-3), ("real", 2, 2.0), ("real", 0.25, 0.25), ("real", "0", 0.0), ("real", 1e6, 1e6),
    ("yes", "true", True), ("yes", "NO", False), ("yes", "1", True), ("yes", "off", False), ("yes", False, False),
    ("word", "", ""), ("word", "12", "12"),
    ("choice", "conv", "conv"), ("sizes", "2", 2), ("sizes", 2, 2),
])
def test_values_are_converted(key: str, given: Any, expected: Any) -> None:
    found = value(**{key: given})
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("key", "given", "message"), [
    ("whole", "6.5", "whole must be a whole number, not '6.5'"),
    ("whole", 64.0, "whole number"), ("whole", True, "whole number"), ("whole", None, "whole number"),
    ("whole", [1], "whole number"), ("whole", "", "whole number"), ("whole", "9" * 5000, "whole number"),
    ("whole", 0, "at least 1, not 0"), ("whole", 2**31, "at most 2147483647, not 2147483648"),
    ("real", "nan", "finite number"), ("real", "-inf", "finite number"), ("real", float("nan"), "finite number"),
    ("real", float("inf"), "finite number"), ("real", 10**400, "finite number"), ("real", "1e999", "finite number"),
    ("real", True, "finite number"), ("real", "a", "finite number"), ("real", {}, "finite number"),
    ("real", -1e-9, "at least 0.0"), ("real", "1000001", "at most 1000000.0"),
    ("yes", 1, "true or false"), ("yes", "maybe", "true or false"), ("yes", "", "true or false"),
    ("word", 12, "text"), ("word", ["a"], "text"),
    ("choice", "median", "one of avg, conv, not 'median'"), ("choice", None, "one of"), ("choice", "AVG", "one of"),
    ("sizes", True, "one of 1, 2"), ("sizes", 1.0, "one of"), ("sizes", 3, "one of"),
])
def test_bad_values_are_told(key: str, given: Any, message: str) -> None:
    with pytest.raises(UsageError, match="attention 'x'") as error:
        value(**{key: given})
    assert message in str(error.value)
    assert key in str(error.value)


def test_unknown_key_is_told_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"No option of attention 'x' named 'hole'. Did you mean 'whole'\?"):
        value(hole=3)
    with pytest.raises(UsageError, match="Valid: choice, real, sizes, whole, word, yes"):
        value(qqq=3)


def test_dataclass_without_options_says_so() -> None:
    @dataclass(frozen=True)
    class Nothing:
        pass

    with pytest.raises(UsageError, match="Valid: none"):
        options.parse(Nothing, {"a": 1}, "attention 'x'")


def test_type_that_options_cannot_have_is_the_plugins_fault() -> None:
    @dataclass(frozen=True)
    class Odd:
        pair: tuple[int, int] = (1, 2)

    with pytest.raises(PluginError, match=r"x: pair is declared as tuple\[int, int\]"):
        options.parse(Odd, {"pair": "1"}, "x")


def test_no_values_give_the_defaults_in_order() -> None:
    parsed = options.parse(Everything, {}, "x")
    assert parsed == Everything()
    assert list(options.to_dict(parsed)) == ["whole", "real", "yes", "word", "choice", "sizes"]


def test_description_names_types_defaults_and_help() -> None:
    described = {name: rest for name, *rest in options.describe(Everything)}
    assert described["whole"] == ["int", 4, "a number"]
    assert described["choice"] == ["avg | conv", "avg", "one of two"]
    assert described["yes"] == ["bool", True, "a switch"]
