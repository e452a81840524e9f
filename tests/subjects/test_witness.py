"""No attention gets a time that it did not earn: those that cheat are told, the honest ones that look alike are not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from cheats import CHANGES, CHEATS, HONEST, Trick

from softbench import config
from softbench.bench import session, sweep
from softbench.bench.run import Watch, run
from softbench.processes import setup
from softbench.records import Record

LATENCY = {"rep": "20", "warmup": "2", "rounds": "3", "block": "0.5"}


def sweep_of(attn: str, keys: dict[str, str], measure: str = "latency", threads: str = "1") -> sweep.Sweep:
    sweep = {"attn": attn, "tokens": "64", "heads": "2", "head_dim": "8", "device": "cpu", "baseline": "none"}
    flags = {measure: LATENCY if measure == "latency" else {}, "process": {"threads": threads}, "sweep": sweep | keys}
    return session.start(config.load(None, flags=flags), measure)


def records_of(*given: Any, **more: Any) -> list[Record]:
    return [record for _, group in sweep_of(*given, **more) for record in group]


@pytest.mark.parametrize("name", CHEATS)
def test_what_cheats_gets_no_time(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "_LONGER", 60.0)  # seconds: float64 is affordable however busy the machine is
    trick = CHEATS[name]
    (row,) = records_of(trick.write(tmp_path, name), dict(trick.keys))
    assert (row.status, row.value, row.samples) == ("failed", None, []), row.note
    assert trick.note in row.note


@pytest.mark.parametrize("name", HONEST)
def test_what_is_honest_gets_its_time(tmp_path: Path, name: str) -> None:
    trick = HONEST[name]
    (row,) = records_of(trick.write(tmp_path, name), dict(trick.keys))
    assert (row.status, row.note) == ("ok", "")
    assert row.value


def changing(folder: Path, name: str, forward: str = "", imported: str = "", setup: str = "") -> str:
    return Trick(f"{forward}\nreturn honest(q, k, v)", imported=imported, setup=setup).write(folder, name)


@pytest.mark.parametrize("name", CHANGES)
def test_a_case_that_changes_the_process_fails_alone(tmp_path: Path, name: str) -> None:
    """Its file, its constructor, its first call and a later one do so; the case after it is true."""
    if name == "cores" and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is only one core")
    change, note = CHANGES[name]
    setup.apply(config.Process(threads=2))
    attentions = {
        "imported": changing(tmp_path, f"{name}_imported", imported=change),
        "built": changing(tmp_path, f"{name}_built", setup=change),
        "called": changing(tmp_path, f"{name}_called", forward=change),
        "later": changing(tmp_path, f"{name}_later", forward=f"if self.count > 4:\n    {change}"),
        "honest": changing(tmp_path, "honest"),
    }
    keys = {"mode": "forward_backward"} if name == "grad_mode" else {}  # a forward alone runs in a mode of its own
    rows = dict(zip(attentions, records_of(",".join(attentions.values()), keys, threads="2"), strict=True))
    for row in [rows.pop("imported"), rows.pop("built"), rows.pop("called"), rows.pop("later")]:
        assert (row.status, row.value) == ("failed", None), row.label
        assert f"it changed {note}" in row.note, row.label
    assert rows["honest"].status == "ok"
    assert (torch.get_num_threads(), os.getcwd()) == (2, os.environ.get("PWD", os.getcwd()))


def test_the_state_is_put_back_after_an_error(tmp_path: Path) -> None:
    before = torch.get_default_dtype()
    (row,) = records_of(changing(tmp_path, "raising", forward="torch.set_default_dtype(torch.float64)\n1 / 0"), {})
    assert "it changed torch's default dtype" in row.note
    assert torch.get_default_dtype() == before


@pytest.mark.parametrize("measure", ["memory", "operators"])
@pytest.mark.parametrize("name", ["caches_by_address", "caches_the_first_result", "looks_at_no_grad"])
def test_other_measures_give_no_number_either(tmp_path: Path, measure: str, name: str) -> None:
    rows = records_of(CHEATS[name].write(tmp_path, name), {}, measure)
    assert {row.status for row in rows} == {"failed"}


def test_records_are_kept_where_they_were_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where a thread of an attention changes the working directory while cases are measured."""
    monkeypatch.chdir(tmp_path)

    class Moving(Watch):
        def start(self, name: str) -> None:
            os.chdir("/")

    run(sweep_of("softmax", {}), Path("x.jsonl"), watch=Moving())
    assert len((tmp_path / "x.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("keys", [
    {"model": "timm:resnet18", "mode": "forward"}, {"model": "timm:resnet18", "by_stage": "true", "mode": "forward"},
    {"model": "timm:resnet18:drop_path_rate=0.2", "mode": "forward_backward"}])
def test_models_with_batch_statistics_and_stochastic_depth_get_their_times(keys: dict[str, str]) -> None:
    sweep = {"image": "32", "batch": "2", "device": "cpu"} | keys
    flags = {"latency": LATENCY, "process": {"threads": "1"}, "sweep": sweep}
    rows = [record for _, group in session.start(config.load(None, flags=flags), "latency") for record in group]
    assert {(row.status, row.note) for row in rows} == {("ok", "")}
