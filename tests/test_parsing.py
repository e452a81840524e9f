"""Parsing: what flags mean, and how bad words are told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from softbench import dtypes, parsing
from softbench.case import AttentionSpec
from softbench.errors import UsageError


@pytest.mark.parametrize(("text", "expected"), [
    ("196,1k,4k..64k", [196, 1024, 4096, 8192, 16384, 32768, 65536]),
    ("1", [1]), ("1m", [1 << 20]), ("2K", [2048]), (" 4 , 8 ", [4, 8]), ("0196", [196]),
    ("3..20", [3, 6, 12]), ("5..5", [5]), ("8,4..16", [8, 4, 16]), ("64m", [1 << 26]),
])
def test_counts(text: str, expected: list[int]) -> None:
    assert parsing.counts(text, "--tokens") == expected


@pytest.mark.parametrize(("text", "message"), [
    ("64k..4k", "range '64k..4k' ends before it starts. Write it as 4k..64k"),
    ("0", "at least 1, not 0"), ("0k", "at least 1"), ("0..4", "at least 1"), ("0" * 5000, "at least 1"),
    ("-1", "'-1' is not a positive whole number"), ("1.5", "not a positive"), ("1.5k", "not a positive"),
    ("", "empty"), (",", "empty"), ("1,,2", "an item of '1,,2' is empty"), ("4,", "empty"),
    ("..", "''"), ("4..", "''"), ("..4", "''"), ("4..8..16", "8..16"), ("1e3", "1e3"), ("4kk", "4kk"), ("4 k", "4 k"),
    ("65m", "at most 67,108,864, not 65m"), ("9" * 30, "at most"), ("9" * 5000, "at most"), ("9" * 20 + "m", "at most"),
    ("many", "'many'"), ("[1, 8]", "[1"), ("0x10", "0x10"), ("²", "²"),
])
def test_bad_counts_are_told(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--tokens") as error:
        parsing.counts(text, "--tokens")
    assert message in str(error.value)


@pytest.mark.parametrize(("text", "expected"), [
    ("56x56", [(56, 56)]), ("7x9,1x5", [(7, 9), (1, 5)]), ("3X4", [(3, 4)]), ("3×4", [(3, 4)]), ("2x2,2x2", [(2, 2)]),
])
def test_grids(text: str, expected: list[tuple[int, int]]) -> None:
    assert parsing.grids(text) == expected


@pytest.mark.parametrize("text", ["56", "x", "3x", "0x5", "5x0", "-1x4", "3x4x5", "3.5x4", "", "2x2,", "8193x8192",
                                  "99999999x1", "9" * 5000 + "x1"])
def test_bad_grids_are_told(text: str) -> None:
    with pytest.raises(UsageError, match="--grid"):
        parsing.grids(text)


def test_attentions_with_options_and_implementations() -> None:
    specs = parsing.attentions("soft, soft:landmarks=64:inverse=cholesky,softmax:impl=math,./a=b/mine.py:x=y=z")
    assert specs == [
        AttentionSpec("soft"), AttentionSpec("soft", {"landmarks": "64", "inverse": "cholesky"}),
        AttentionSpec("softmax", {}, "math"), AttentionSpec("./a=b/mine.py", {"x": "y=z"})]
    assert [spec.label for spec in specs] == [
        "soft", "soft:landmarks=64:inverse=cholesky", "softmax:impl=math", "mine:x=y=z"]


@pytest.mark.parametrize(("text", "message"), [
    ("", "empty"), ("soft,", "empty"), ("soft,,performer", "empty"), ("soft:", "'' in 'soft:' is not an option"),
    ("soft:landmarks", "'landmarks' in 'soft:landmarks' is not an option"), ("soft:=4", "not an option"),
    ("soft:landmarks=", "not an option"), ("soft:a=1:a=2", "'a' is given twice"), ("soft:impl=a:impl=b", "given twice"),
    ("soft landmarks=4:", "not an option"),
])
def test_bad_attentions_are_told(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--attn") as error:
        parsing.attentions(text)
    assert message in str(error.value)


def test_path_with_a_colon_is_refused_rather_than_cut() -> None:
    with pytest.raises(UsageError, match=r"'dir/mine\.py' in '\./my:dir/mine\.py' is not an option"):
        parsing.attentions("./my:dir/mine.py")


@pytest.mark.parametrize(("text", "expected"), [
    ("224", [(224, 224)]), ("512x384, 64", [(512, 384), (64, 64)]), ("32,32x32", [(32, 32)]), ("1k", None),
])
def test_images(text: str, expected: list[tuple[int, int]] | None) -> None:
    if expected is not None:
        assert parsing.images(text) == expected
        return
    with pytest.raises(UsageError, match=r"--image: '1k' is not an image size\. Write a side in pixels, or height x"):
        parsing.images(text)


@pytest.mark.parametrize("text", ["", "x", "224x", "x224", "0", "0x5", "-1", "3x4x5", "9000x9000", "abc", "224,,32"])
def test_bad_images_are_told(text: str) -> None:
    with pytest.raises(UsageError, match="--image"):
        parsing.images(text)


def test_models_are_named_as_attentions_are() -> None:
    soft, mine, peer = parsing.models("soft-tiny:landmarks=16:impl=eager,./a/mine.py-tiny,timm:pvt_v2_b1:depth=2")
    assert (soft.name, soft.options, soft.impl, soft.timm, soft.part) == (
        "soft-tiny", {"landmarks": "16"}, "eager", "", "whole")
    assert soft.label == "soft-tiny:landmarks=16:impl=eager"
    assert mine.label == "mine-tiny"
    assert (peer.name, peer.timm, peer.options, peer.label) == (
        "timm:pvt_v2_b1", "pvt_v2_b1", {"depth": "2"}, "timm:pvt_v2_b1:depth=2")


@pytest.mark.parametrize(("text", "message"), [
    ("timm", "'timm' names no model. Write timm:NAME, as in timm:resnet18"), ("timm:", "names no model"),
    ("soft-tiny:landmarks", "is not an option. Write name:key=value, as in soft-tiny:landmarks=64"),
    ("timm:hf-hub:a/b", "'a/b' in 'timm:hf-hub:a/b' is not an option"), ("soft-tiny,", "empty"),
    ("soft-tiny:a=1:a=2", "given twice"),
])
def test_bad_models_are_told(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--model") as error:
        parsing.models(text)
    assert message in str(error.value)


def test_choices_are_checked_and_stripped() -> None:
    assert parsing.choices(["float32", " float16", "float32 "], dtypes.NAMES, "dtype") == ["float32", "float16"]
    with pytest.raises(UsageError, match=r"No dtype named 'float23'. Did you mean 'float32'\?"):
        parsing.choices(["float23"], dtypes.NAMES, "dtype")
    with pytest.raises(UsageError, match="No dtype named ''"):
        parsing.choices([""], dtypes.NAMES, "dtype")


@pytest.mark.parametrize(("text", "count"), [
    ("2GiB", 2 << 30), ("512 MiB", 512 << 20), ("1.5gib", 3 << 29), ("2147483648", 1 << 31), (" 1 tib ", 1 << 40),
    ("1e7", 10_000_000), (".5GiB", 1 << 29), ("2GB", 2 * 10**9), ("750mb", 750 * 10**6), ("2048kB", 2_048_000),
    ("2048KiB", 1 << 21), ("5000000B", 5_000_000),
])
def test_amounts_of_memory(text: str, count: int) -> None:
    assert parsing.memory(text, "--memory-limit") == count


@pytest.mark.parametrize(("text", "message"), [
    ("", "not an amount"), ("GiB", "not an amount"), ("2 gigs", "'2 gigs' is not an amount of memory. Write it as 2G"),
    ("2GiBGiB", "not an amount"), ("nan", "not an amount"), ("inf", "not an amount"), ("nanGiB", "not an amount"),
    ("1e999", "not an amount"), ("1,5GiB", "not an amount"), ("0x10", "not an amount"), ("1..5GB", "not an amount"),
    ("50ms", "not an amount"), ("0", "more than 0"), ("0GiB", "more than 0"), ("-2GiB", "more than 0"),
    ("0.1", "more than 0"), ("9e30GiB", "less than"), ("1e308TB", "less than"), ("1048576TiB", "less than"),
    ("9" * 400, "not an amount"), ("１GiB", "not an amount"),
    ("5KiB", "at least 1MiB"), ("16", "at least 1MiB, not 16. A number without a unit counts bytes"),
])
def test_bad_amounts_of_memory_are_told(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--memory-limit") as error:
        parsing.memory(text, "--memory-limit")
    assert message in str(error.value)


@pytest.mark.parametrize(("text", "seconds"), [
    ("50ms", 0.05), ("1.5s", 1.5), ("200us", 2e-4), ("200 µs", 2e-4), (".5s", 0.5), ("2min", 120.0), ("1S", 1.0),
    ("1m", 60.0), ("2h", 7200.0), ("60", 60.0), ("1e3", 1000.0), ("1e3ms", 1.0)])
def test_times(text: str, seconds: float) -> None:
    assert parsing.seconds(text, "--latency") == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "message"), [
    ("", "is not a time"), ("soon", "'soon' is not a time. Write it as 50ms"), ("nan", "is not a time"),
    ("inf", "is not a time"), ("50 mss", "is not a time"), ("16GiB", "is not a time"), ("ms", "is not a time"),
    ("1e999", "is not a time"), ("1:30", "is not a time"), ("0s", "from 1us to 24h"), ("-5ms", "from 1us to 24h"),
    ("99999999s", "24h")])
def test_bad_times_are_told(text: str, message: str) -> None:
    with pytest.raises(UsageError, match="--latency") as error:
        parsing.seconds(text, "--latency")
    assert message in str(error.value)


def test_a_plain_number_has_the_unit_of_its_setting() -> None:
    assert (parsing.span("500", "ms"), parsing.span("0.5s", "ms"), parsing.span("2", "s")) == (500.0, 500.0, 2.0)
    assert parsing.span("fast", "ms") != parsing.span("fast", "ms")  # nan


def test_training_is_another_word_for_forward_backward() -> None:
    assert parsing.modes("training, forward,forward_backward") == ["forward_backward", "forward"]
    with pytest.raises(UsageError, match="No mode named 'training'"):
        parsing.modes("training", ("forward",))


@pytest.mark.parametrize(("parse", "text"), [
    (parsing.attentions, "soft,performer, soft"), (parsing.models, "soft-tiny,soft-tiny"),
    (parsing.attentions, "soft:landmarks=4,soft:landmarks=4")])
def test_nothing_is_named_twice(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(UsageError, match=r"--(attn|model): 'soft.*' is named twice"):
        parse(text)
