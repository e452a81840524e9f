"""The noise of a machine from simulated A/A rounds, what it lets the gate find, and where it is kept."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from reports import fake_records as fake

from softbench import records
from softbench.compare import rule
from softbench.errors import ResultsError
from softbench.gate import noise as noises
from softbench.gate import store
from softbench.gate.noise import Noise


def test_detectable_changes_are_found_nine_times_in_ten() -> None:
    """Slowdowns of just that size, judged by the rule."""
    known = Noise(rounds=0.01, runs=0.02, units=100, first=6)
    assert known.floor == pytest.approx(0.01 / math.sqrt(6))
    for rounds in (6, 12, 24):
        change = math.log1p(known.detectable(rounds, 0.02, looks=3))
        source = random.Random(rounds)
        margin = rule.margin(0.02, known.floor)
        found = [rule.judge([rule.paired([source.gauss(change, 0.01) for _ in range(rounds)])], [margin], looks=3)[0]
                 for _ in range(400)]
        assert 0.85 <= found.count(rule.SLOWER) / 400 <= 0.99
    assert known.detectable(24, 0.02) < known.detectable(6, 0.02) < 0.05


def test_deviations_are_pooled_over_cases_of_different_means() -> None:
    assert noises._pooled([[1.0, 3.0], [11.0, 13.0]]) == pytest.approx(math.sqrt(2))
    assert noises._pooled([[1.0, -1.0], [2.0, -2.0]], about_zero=True) == pytest.approx(math.sqrt(2.5))
    assert math.isnan(noises._pooled([]))


def test_the_noise_of_a_machine_is_kept_and_found_by_its_name(tmp_path: Path) -> None:
    environment = fake.ENVIRONMENT | {"machine": "epyc"}
    for runs in (0.5, 0.02):  # the second replaces the first
        path = store.write(tmp_path / "new", noises.as_records(Noise(0.01, runs, 24, 4), environment))
    assert path.name == "epyc.jsonl"
    assert [p.name for p in path.parent.iterdir()] == ["epyc.jsonl"]
    store.write(tmp_path / "new", noises.as_records(Noise(0.1, 0.2, 24, 4), fake.ENVIRONMENT))
    floors, runs_of = store.noise(tmp_path / "new")
    assert floors == {"epyc": pytest.approx(0.005), "xeon-2c-8g-1a2b3c": pytest.approx(0.05)}
    assert runs_of == {"epyc": 0.02, "xeon-2c-8g-1a2b3c": 0.2}
    assert records.read(path)[1] == []
    assert store.noise(tmp_path / "nothing") == ({}, {})


def test_a_store_that_cannot_be_written_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResultsError, match="what was there is kept"):
        store.write(tmp_path / "file", [fake.record()])
    assert (tmp_path / "file").read_text() == "x"
