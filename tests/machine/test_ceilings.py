"""Ceilings: floors by hand, what is kept for which machine, and what a call cannot avoid doing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reports.fake_records import ENVIRONMENT, record

from softbench import subjects
from softbench.case import AttentionSpec, Case, Shape
from softbench.errors import ResultsError
from softbench.machine import ceilings
from softbench.machine.ceilings import Ceilings
from softbench.measures.latency.work import unavoidable
from softbench.subjects import workload


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def kept(quantity: str, value: float, dtype: str = "float32", **changed: Any) -> Any:
    return record("roofline", "", 1, quantity=quantity, value=value, unit="B/s", dtype=dtype, **changed)


def test_the_floor_is_the_larger_of_two_times() -> None:
    known = Ceilings(bandwidth=1e9, rates={"float32": 1e10, "bfloat16": 4e10})
    by_bytes = known.limit(2e6, 1e6, "float32", 4e-3)
    assert (by_bytes["floor"], by_bytes["share"], by_bytes["bound"]) == (2e-3, 0.5, "bytes")
    by_flops = known.limit(2e6, 4e9, "bfloat16", None)
    assert (by_flops["floor"], by_flops["share"], by_flops["bound"]) == (0.1, None, "flops")
    assert known.limit(1.0, 1.0, "float64", 1.0) == {}


def test_what_is_kept_belongs_to_machine_device_and_setting() -> None:
    assert ceilings.load(ENVIRONMENT, "cpu") is None
    found = [kept("bandwidth", 2e10), kept("flop_rate", 3e11), kept("flop_rate", 1e12, "bfloat16")]
    file = ceilings.remember(found, ENVIRONMENT, "cpu")
    assert file.name == f"roofline-{ENVIRONMENT['machine']}-cpu.jsonl"
    assert ceilings.load(ENVIRONMENT, "cpu") == Ceilings(2e10, {"float32": 3e11, "bfloat16": 1e12})
    assert ceilings.load(ENVIRONMENT | {"commit": "other", "malloc": "default"}, "cpu") is not None
    for changed in ({"threads": 1}, {"tf32": True}, {"torch": "2.11"}, {"machine": "other"}):
        assert ceilings.load(ENVIRONMENT | changed, "cpu") is None
    assert ceilings.load(ENVIRONMENT, "cuda:0") is None
    ceilings.remember([kept("bandwidth", 4e10)], ENVIRONMENT, "cpu")
    assert ceilings.load(ENVIRONMENT, "cpu") == Ceilings(4e10, {"float32": 3e11, "bfloat16": 1e12})


def test_the_latest_counts_whatever_its_size() -> None:
    for day, value, size in ((1, 1e10, "256 MiB"), (2, 2e10, "1,024 MiB"), (3, 3e10, "256 MiB")):
        ceilings.remember([kept(quantity, value, coords={"size": size}, started=f"2026-01-0{day}T00:00:00+00:00")
                           for quantity in ("bandwidth", "flop_rate")], ENVIRONMENT, "cpu")
    assert ceilings.load(ENVIRONMENT, "cpu") == Ceilings(3e10, {"float32": 3e10})


def test_a_broken_file_is_as_good_as_none() -> None:
    file = ceilings.path(ENVIRONMENT, "cpu")
    file.parent.mkdir(parents=True)
    file.write_text("no records")
    assert ceilings.load(ENVIRONMENT, "cpu") is None


def test_a_relative_cache_folder_is_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert ceilings.path(ENVIRONMENT, "cpu").is_relative_to(Path.home() / ".cache" / "softbench")


def test_without_a_home_nothing_is_known_and_nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user that the system does not know
    assert ceilings.load(ENVIRONMENT, "cpu") is None
    with pytest.raises(ResultsError, match="There is no home directory: set HOME, or XDG_CACHE_HOME"):
        ceilings.remember([], ENVIRONMENT, "cpu")


@pytest.mark.parametrize(("mode", "tensors", "forwards"), [
    ("forward", 4, 1), ("backward", 4 + 3, 2), ("forward_backward", 3 + 1 + 1 + 3, 3)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_unavoidable_work_of_exact_attention(mode: str, tensors: int, forwards: int, dtype: str) -> None:
    """q, k, v in and y out; dy in and dq, dk, dv out; 4 N^2 D FLOP a head for the forward."""
    subject = subjects.load(AttentionSpec("softmax"))
    case = Case(AttentionSpec("softmax"), Shape(2, 3, 4, 5, 8), mode=mode, dtype=dtype)
    size = (4 if dtype == "float32" else 2) * 2 * 3 * 20 * 8
    work = unavoidable(workload.build(case, subject))
    assert work == {"bytes": tensors * size, "flops": forwards * 4.0 * 2 * 3 * 20**2 * 8}


@pytest.mark.parametrize(("spec", "pairs"), [
    (AttentionSpec("softmax"), 20 * 21 / 2), (AttentionSpec("window", {"size": 7}), 28 + 13 * 7),
    (AttentionSpec("window", {"size": 64}), 20 * 21 / 2)])
@pytest.mark.parametrize(("mode", "forwards"), [("forward", 1), ("forward_backward", 3)])
def test_masked_pairs_are_no_unavoidable_work(spec: AttentionSpec, pairs: float, mode: str, forwards: int) -> None:
    subject = subjects.load(spec)
    case = Case(spec, Shape(2, 3, 4, 5, 8, causal=True), mode=mode)
    assert unavoidable(workload.build(case, subject))["flops"] == forwards * 4.0 * 2 * 3 * pairs * 8
    assert subject.closed_form(case) > 4.0 * 2 * 3 * pairs * 8


def test_what_is_avoidable_may_fail_and_is_no_less_than_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = AttentionSpec("softmax")
    subject = subjects.load(spec)
    built = workload.build(Case(spec, Shape(1, 1, 2, 2, 4)), subject)
    monkeypatch.setattr("softbench.attention.softmax.avoidable", lambda shape, options: 1e9)
    assert unavoidable(built)["flops"] == 0
    monkeypatch.setattr("softbench.attention.softmax.avoidable", lambda shape, options: 1 / 0)
    assert unavoidable(built) == {}


def test_keys_that_are_queries_are_read_once_and_parameters_are_read() -> None:
    shape = Shape(1, 2, 4, 5, 8)
    size = 4 * 2 * 20 * 8
    soft, linformer = AttentionSpec("soft"), AttentionSpec("linformer", {"projected": 6})
    read = {spec.name: unavoidable(workload.build(Case(spec, shape), subjects.load(spec)))["bytes"]
            for spec in (soft, linformer)}
    assert read == {"soft": 3 * size, "linformer": 4 * size + 2 * 4 * 20 * 6}
    trained = unavoidable(workload.build(Case(linformer, shape, mode="forward_backward"),
                                               subjects.load(linformer)))
    assert trained["bytes"] == 8 * size + 2 * (2 * 4 * 20 * 6)
