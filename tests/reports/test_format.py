"""Numbers as text, at the places where units and digits change."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from softbench.reports import format


@pytest.mark.parametrize(("value", "text"), [
    (0, "0"), (1, "1.00"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100"), (999.4, "999"), (1234.4, "1,234"),
    (12345678, "12,345,678"), (0.0123, "0.0123"), (0.09996, "0.100"), (1e-9, "0.00000000100"), (-1.5, "-1.50"),
    (1e-30, "<0.000000000001"), (-1e-30, ">-0.000000000001"), (1e21, "1,000,000,000,000,000,000,000"),
    (None, "n/a"), (math.nan, "n/a"), (math.inf, "n/a"),
])
def test_number_has_three_digits_and_no_exponent(value: float | None, text: str) -> None:
    assert format.number(value) == text


@pytest.mark.parametrize(("value", "unit", "text"), [
    (0, "s", "0 s"), (1e-9, "s", "1.00 ns"), (1e-12, "s", "0.00100 ns"), (2.5e-7, "s", "250 ns"),
    (999.4e-6, "s", "999 us"), (999.51e-6, "s", "1.00 ms"), (9.996e-4, "s", "1.00 ms"), (1e-3, "s", "1.00 ms"),
    (0.9994, "s", "999 ms"), (0.99951, "s", "1.00 s"), (3600, "s", "3,600 s"),
    (0, "B", "0 B"), (512, "B", "512 B"), (1023, "B", "1,023 B"), (1024, "B", "1.00 KiB"), (2**20 - 1, "B", "1.00 MiB"),
    (1023 * 1024, "B", "1,023 KiB"), (2**31, "B", "2.00 GiB"), (2**52, "B", "4,096 TiB"),
    (68.7e9, "flop", "68.7 GFLOP"), (999.6e6, "flop", "1.00 GFLOP"), (2e12, "flop", "2.00 TFLOP"),
    (0.25, "1", "0.250"), (1200, "image/s", "1,200 image/s"), (3, "lumen", "3.00 lumen"),
    (None, "s", "n/a"), (math.nan, "B", "n/a"),
])
def test_quantity_chooses_its_unit_after_rounding(value: float | None, unit: str, text: str) -> None:
    assert format.quantity(value, unit) == text


def test_span_is_written_in_the_unit_of_its_larger_end() -> None:
    assert format.span(1.2e-3, 1.31e-3, "s") == "1.20..1.31 ms"
    assert format.span(9.0e-4, 1.1e-3, "s") == "0.900..1.10 ms"
    assert format.span(math.nan, math.nan, "s") == "n/a"
    assert format.span(None, 1.0, "s") == "n/a"


@pytest.mark.parametrize(("value", "unit", "text"), [
    (0.01, "s", "10 ms"), (0.1, "s", "100 ms"), (2**20 * 2.5, "B", "2.5 MiB"), (0.2, "1", "0.2"), (1000, "1", "1,000"),
    (0, "s", "0 s"),
])
def test_tick_has_no_trailing_zeros(value: float, unit: str, text: str) -> None:
    assert format.tick(value, unit) == text


def test_gmac_is_half_the_flop() -> None:
    assert format.gmac(3.48e9) == "1.74"
    assert format.gmac(2e5) == "0.000100"
    assert format.gmac(None) == "n/a"


def test_ratio_share_and_counts() -> None:
    assert [format.ratio(r) for r in (1.84, 0.12, 115.2, None, math.nan)] == ["1.84x", "0.120x", "115x", "n/a", "n/a"]
    assert [format.share(s) for s in (0, 0.0004, 0.004, 0.12, 1)] == ["0 %", "<0.1 %", "0.4 %", "12 %", "100 %"]
    assert format.share(None) == "n/a"
    assert format.count(16384) == "16,384"
    assert format.count(None) == "n/a"
    assert [format.tokens(n) for n in (196, 1000, 1024, 3136, 65536)] == ["196", "1,000", "1k", "3,136", "64k"]


def test_text_is_one_printable_line() -> None:
    assert format.text("a\x1b[31m\nb\t c\udc80") == "a [31m b c"
    assert [format.text(v) for v in (True, 128.0, 0.25, 3, None, math.nan, pd.NA)] == \
        ["true", "128", "0.25", "3", "n/a", "n/a", "n/a"]


@pytest.mark.parametrize(("cell", "width", "lines"), [
    ("soft", 4, ["soft"]),
    ("soft:landmarks=64:inverse=cholesky", 18, ["soft:landmarks=64:", "inverse=cholesky"]),
    ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
    ("two words", 6, ["two", "words"]),
])
def test_wrap_breaks_behind_punctuation_and_drops_no_letter(cell: str, width: int, lines: list[str]) -> None:
    assert format.wrap(cell, width) == lines


@pytest.mark.parametrize("width", range(1, 40))
def test_wrap_keeps_within_its_width(width: int) -> None:
    cell = "soft:landmarks=64:inverse=cholesky, and more"
    lines = format.wrap(cell, width)
    assert max(map(len, lines)) <= width
    assert "".join(lines).replace(" ", "") == cell.replace(" ", "")
