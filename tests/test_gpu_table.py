"""The table of GPU speeds, as far as a machine without one can tell: what it compares, and the records it keeps."""

from __future__ import annotations

import pytest
from gpu import speed

from softbench import records


@pytest.mark.parametrize("impl", ["eager", "reference"])
def test_it_runs_the_implementation_that_it_names(impl):
    built = speed.attention(f"soft:impl={impl}", 8, 49, 16, "forward", device="cpu")
    assert (built.case.impl, built.module.impl) == (impl, impl)


def test_rows_are_records_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speed.setup, "apply", lambda _: {"threads": 2})  # this process stays as it is
    table = speed.Table(str(tmp_path / "speed.jsonl"), device="cpu")
    table.told("share of the floor", 0.5, 0.6, "20 us")
    table.told("times faster", 9.0, 8, "2 us")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["BELOW", "ok"]
    found, _ = records.read(tmp_path / "speed.jsonl")
    assert [(r.coords["claim"], r.value, r.detail["target"]) for r in found] == [
        ("share of the floor", 0.5, 0.6), ("times faster", 9.0, 8)]
    assert found[0].environment["machine"]
