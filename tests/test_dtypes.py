"""The table of dtypes agrees with torch, and needs no torch to be read."""

from __future__ import annotations

import pytest
import torch

from softbench import dtypes


@pytest.mark.parametrize("name", dtypes.NAMES)
def test_the_table_says_what_torch_says(name: str) -> None:
    of_torch, row = dtypes.of(name), dtypes.TABLE[name]
    assert (dtypes.name_of(of_torch), of_torch.itemsize) == (name, row.bytes)
    assert torch.finfo(of_torch).eps < row.tolerance
    assert torch.finfo(dtypes.of(row.sums)).eps / 8 < row.rounding
    assert dtypes.of(row.sums).itemsize >= max(4, row.bytes)


def test_every_name_has_a_row_and_two_are_half() -> None:
    assert set(dtypes.TABLE) == set(dtypes.NAMES)
    assert dtypes.HALF == ("float16", "bfloat16")


def test_float32_has_the_digits_of_float16_where_products_are_tf32() -> None:
    assert dtypes.tolerance("float32", tf32=True) == dtypes.tolerance("float16") > dtypes.tolerance("float32")
    assert dtypes.tolerance("float64", tf32=True) == dtypes.tolerance("float64")


@pytest.mark.parametrize(("name", "allowed"), [("float64", 1e-14), ("float32", 1e-6), ("bfloat16", 1e-6), (None, 1e-6),
                                               ("int8", 1e-6)])
def test_rounding_of_a_studys_result(name: str | None, allowed: float) -> None:
    assert dtypes.rounding(name) == allowed
