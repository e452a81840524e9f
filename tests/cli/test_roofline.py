"""`softbench roofline`: measured once, kept, forced; then floors beside latencies, in records, tables and the plot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--dtypes", "float32", "--repeats", "2", "--patience", "0.1", "--copy", "4MiB", "--threads", "1")
LATENCY = ("latency", "--attn", "soft", "--tokens", "16,64", "--rep", "1", "--warmup", "0", "--rounds", "1",
           "--threads", "1", "--heads", "1", "--head-dim", "8", "--device", "cpu")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def roofline(run: Run, *more: str) -> tuple[str, str]:
    code, out, err = run("roofline", "--device", "cpu", *QUICK, *more)
    assert code == 0, err
    return out, err


def test_measures_once_keeps_and_can_be_forced(run: Run, tmp_path: Path) -> None:
    out, err = roofline(run, "--out", "first.jsonl")
    assert "matrix product" in out
    assert " GB/s" in out or " MB/s" in out
    (kept,) = (tmp_path / "cache" / "softbench").iterdir()
    assert f"Kept for this machine: {kept}" in err
    records = [json.loads(line) for line in kept.read_text().splitlines()]
    assert records == [json.loads(line) for line in Path("first.jsonl").read_text().splitlines()]
    assert {(r["quantity"], r["unit"]) for r in records} == {
        ("bandwidth", "B/s"), ("bandwidth_median", "B/s"), ("flop_rate", "flop/s"), ("flop_rate_median", "flop/s")}
    assert all(len(r["samples"]) == 2 and r["environment"]["threads"] == 1 for r in records)
    best = {r["quantity"]: r for r in records}
    assert best["bandwidth"]["value"] == max(best["bandwidth"]["samples"])

    again, told = roofline(run, "--out", "second.jsonl")
    assert again == out
    assert "--force measures anew" in told
    assert not Path("second.jsonl").exists()
    roofline(run, "--force", "--out", "third.jsonl")
    assert len(kept.read_text().splitlines()) == 2 * len(records)


def test_floors_stand_beside_latencies_once_the_ceilings_are_known(run: Run, tmp_path: Path) -> None:
    code, out, err = run(*LATENCY, "--out", "before.jsonl")
    assert code == 0
    assert "floor" not in out
    assert err.count("`softbench roofline` measures once") == 1
    roofline(run, "--out", "r.jsonl")
    code, out, err = run(*LATENCY, "--out", "after.jsonl")
    assert code == 0
    assert "softbench roofline" not in err
    assert "of limit" in out
    records = [json.loads(line) for line in Path("after.jsonl").read_text().splitlines()]
    for record in records:
        work, limit = record["detail"]["work"], record["detail"]["limit"]
        assert limit["floor"] == max(work["bytes"] / limit["bandwidth"], work["flops"] / limit["flop_rate"])
        assert limit["share"] == pytest.approx(limit["floor"] / record["value"])
    code, _, err = run("plot", "after.jsonl", "--view", "roofline", "--out", "roof.svg")
    assert code == 0, err
    picture = Path("roof.svg").read_text()
    assert "panel0-ceiling" in picture
    assert "panel0-line1" in picture
    code, _, err = run("plot", "before.jsonl", "--view", "roofline", "--out", "none.svg")
    assert (code, Path("none.svg").exists()) == (2, False)
    assert "nothing to draw" in err
    code, _, err = run("show", "after.jsonl", "--view", "roofline")
    assert code == 2
    assert "is a picture" in err


@pytest.mark.parametrize(("flags", "message"), [
    (("--dtypes", "float8"), "No dtype named 'float8'"),
    (("--copy", "much"), "is not an amount of memory"),
    (("--repeats", "0"), "repeats must be at least 1"),
    (("--device", "tpu"), "No device named 'tpu'"),
])
def test_a_bad_setting_is_told_in_one_line(run: Run, flags: tuple[str, str], message: str) -> None:
    code, out, err = run("roofline", *flags)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("home", ["/dev/null", "/proc"])
def test_a_home_that_cannot_be_written_is_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", home)
    out, err = roofline(run, "--out", "r.jsonl")
    assert "matrix product" in out
    assert f"Warning: not kept for this machine. Cannot write {home}/.cache/softbench/" in err
    assert "Set XDG_CACHE_HOME to a folder that can be written." in err
    assert "Records: r.jsonl (4 new)" in err
