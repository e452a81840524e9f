"""The published tables as data: complete, in SI units, each number with its text and its source."""

from __future__ import annotations

import re

import pytest

from softbench.models import paper, parse
from softbench.models.paper import TABLES, Published, Row

NUMBERS = [number for rows in TABLES.values() for row in rows for number in row.numbers]


def numbers(table: str, name: str | int) -> dict[str, Published]:
    row = next(row for row in TABLES[table] if row.name == name)
    return {number.quantity: number for number in row.numbers}


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: f"{n.quantity} {n.printed}")
def test_values_are_what_is_printed(number: Published) -> None:
    digits = float(re.sub(r"[A-Z]", "", number.printed))
    scale = {"parameters": 1e6, "flops": 2e9, "top1": 0.01, "memory": 1e9, "memory_per_image": 1e6}
    assert number.value == pytest.approx(digits * scale.get(number.quantity, 1.0), rel=5e-3)
    units = {"parameters": "1", "flops": "flop", "top1": "1", "memory": "B", "memory_per_image": "B"}
    assert number.unit == units.get(number.quantity, "image/s")
    assert re.search(r"NeurIPS 2021, .*[Tt]able|README of the official code", number.source)


def test_what_was_not_read_says_so() -> None:
    """Throughputs are recalled, memory for each image follows; all else was read."""
    for number in NUMBERS:
        wanted = ("recalled" if number.quantity.startswith("throughput") else
                  "derived" if number.quantity == "memory_per_image" else "seen")
        assert number.known == wanted
        assert bool(number.note) is (wanted == "derived")


def test_rows_are_models_that_exist() -> None:
    for rows in TABLES.values():
        assert len({row.name for row in rows}) == len(rows)
        for row in rows:
            parse(row.arch)


def test_tables_agree_where_they_say_the_same() -> None:
    tiny, soft = numbers("variants", "soft-tiny"), numbers("attentions", "soft-tiny")
    at_49, pooled = numbers("landmarks", 49), numbers("sampling", "avg")
    assert {q: soft[q].value for q in tiny} == {q: n.value for q, n in tiny.items()}
    assert at_49["memory"].value == soft["memory"].value
    assert at_49["top1"].value == pooled["top1"].value == tiny["top1"].value
    assert soft["memory_per_image"].value == pytest.approx(15.8e9 / 128)
    assert numbers("attentions", "softmax-tiny")["memory_per_image"].value == pytest.approx(19e9 / 32)


def test_a_row_without_numbers_is_one_that_was_not_published() -> None:
    silent = [row for rows in TABLES.values() for row in rows if not row.numbers]
    assert [row.name for row in silent] == ["soft-small-d20"]
    assert isinstance(silent[0], Row)
    assert "official code" in silent[0].note
    assert (paper.IMAGE, *paper.IMAGENET) == (224, 1000, 50_000)
