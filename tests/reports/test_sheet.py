"""What may be compared with what, and what things are called."""

from __future__ import annotations

import pandas as pd
import pytest
from reports import fake_records as fake
from reports import reader

from softbench.errors import UsageError
from softbench.records import Record, to_frame
from softbench.reports.rows import of
from softbench.reports.sheet import Sheet, sheets


def sheet(records: list[Record], baseline: str = "softmax") -> Sheet:
    return reader.sheet(records, baseline)


def ratios(found: Sheet) -> dict[tuple[str, int], float | None]:
    quantity = next(iter(found.known))
    return {(e.name, e.tokens): e.ratio(quantity) for e in found.entries}


def test_the_baseline_comes_first_and_points_are_sorted() -> None:
    records = fake.latency(("soft", "softmax", "performer"), (1024, 256, 4096))
    found = sheet(records)
    assert found.names == ["softmax", "soft", "performer"]
    assert [e.tokens for e in found.entries] == [256] * 3 + [1024] * 3 + [4096] * 3
    assert [e.name for e in found.entries][:3] == ["softmax", "soft", "performer"]


def test_ratios_are_to_the_baseline_of_the_same_point() -> None:
    records = [fake.record(attention=a, tokens=n, dtype=d, value=v) for a, n, d, v in (
        ("softmax", 256, "float32", 1.0), ("soft", 256, "float32", 2.0), ("softmax", 1024, "float32", 8.0),
        ("soft", 1024, "float32", 4.0), ("softmax", 256, "float16", 5.0), ("soft", 512, "float16", 3.0))]
    found = sheet(records)
    by_point = [(e.name, e.tokens, e.at("dtype"), e.ratio("latency")) for e in found.entries]
    assert by_point == [
        ("softmax", 256, "float32", 1.0), ("soft", 256, "float32", 2.0), ("softmax", 1024, "float32", 1.0),
        ("soft", 1024, "float32", 0.5), ("softmax", 256, "float16", 1.0), ("soft", 512, "float16", None)]


@pytest.mark.parametrize("key", ["machine", "threads", "malloc", "denormals", "torch", "tf32"])
def test_environments_that_differ_are_not_compared(key: str) -> None:
    other = fake.ENVIRONMENT | {key: "other"}
    found = sheet([fake.record(), fake.record(attention="soft", environment=other), fake.record(attention="performer")])
    assert ratios(found)["soft", 1024] is None
    assert ratios(found)["performer", 1024] == pytest.approx(3.7744 / 2.199552)
    assert found.varying == [f"env.{key}"]


def test_what_does_not_decide_a_number_splits_nothing() -> None:
    other = fake.ENVIRONMENT | {"load": 3, "commit": "b"}
    found = sheet([fake.record(), fake.record(attention="soft", environment=other)])
    assert found.varying == []
    assert ratios(found)["soft", 1024] is not None


def test_a_baseline_without_a_number_leaves_no_ratio() -> None:
    found = sheet([fake.failed("oom"), fake.record(attention="soft"), fake.record(tokens=256, value=0.0),
                   fake.record(attention="soft", tokens=256)])
    assert set(ratios(found).values()) == {None}


@pytest.mark.parametrize("status", ["oom", "unsupported", "timeout", "failed", "diverged"])
def test_only_ok_records_have_a_value(status: str) -> None:
    (entry,) = sheet([fake.record(status=status, value=1.0)]).entries
    assert entry.value("latency") is None


def test_the_baseline_may_be_a_label_an_attention_or_absent() -> None:
    records = [fake.record(label="softmax:impl=math", impl="math"), fake.record(attention="soft"),
               fake.record(attention="soft", label="soft:landmarks=64")]
    assert sheet(records).baseline == "softmax:impl=math"
    assert sheet(records, "soft:landmarks=64").baseline == "soft:landmarks=64"
    assert sheet(records, "nothing").baseline is None
    assert sheet(records).compares
    assert not sheet(records, "nothing").compares
    assert not sheet(records[:1]).compares


def test_subjects_that_share_a_label_are_told_apart() -> None:
    records = [fake.record(impl="sdpa"), fake.record(impl="math"),
               fake.record(attention="soft", options={"landmarks": 49, "conv": 0}),
               fake.record(attention="soft", options={"landmarks": 64, "conv": 0}, tokens=256)]
    assert sheet(records).names == ["softmax (impl=sdpa)", "softmax (impl=math)", "soft (landmarks=49)",
                                    "soft (landmarks=64)"]


def test_an_implementation_that_changes_with_the_point_keeps_one_name() -> None:
    found = sheet([fake.record(impl="sdpa"), fake.record(impl="math", tokens=256),
                   fake.failed("oom", impl=None, tokens=256)])
    assert found.names == ["softmax"]
    assert found.impls == ["math", "sdpa"]


def test_the_last_record_of_a_case_counts() -> None:
    (entry,) = sheet([fake.failed("oom"), fake.record(value=7.0)]).entries
    assert entry.value("latency") == 7.0


def test_grids_are_points_only_where_a_token_count_has_several() -> None:
    several = sheet([fake.record(rows=28, cols=28), fake.record(rows=14, cols=56), fake.record(rows=7, cols=7)])
    assert several.varying == ["grid"]
    assert [e.at("grid") for e in several.entries] == ["7x7", "28x28", "14x56"]
    assert sheet([fake.record(tokens=256), fake.record(tokens=1024)]).varying == []


def test_coordinates_of_plugins_are_points() -> None:
    found = sheet([fake.record(coords={"noise": n, "set": ["a"]}) for n in (0.5, 0.1)] + [fake.record(coords={})])
    assert found.varying == ["noise", "set"]
    assert [e.at("noise") for e in found.entries] == [0.1, 0.5, None]


def test_captions_hold_what_is_the_same_throughout() -> None:
    what, where = sheet([fake.record(), fake.record(tokens=256, batch=4)]).captions
    assert what == "forward, float32, heads 8, head_dim 64, cpu, seed 0, inputs normal, impl sdpa"
    assert where == "xeon-2c-8g-1a2b3c, Intel Xeon (fake), threads 2, malloc fixed, denormals flush, torch 2.10.0"
    on_gpu = fake.ENVIRONMENT | {"gpu": "NVIDIA H100", "cuda": "12.8"}
    assert sheet([fake.record(device="cuda", environment=on_gpu)]).captions[1] == (
        "xeon-2c-8g-1a2b3c, NVIDIA H100, threads 2, malloc fixed, denormals flush, tf32 false, torch 2.10.0, cuda 12.8")
    assert len(sheet([fake.record(environment={})]).captions) == 1


def test_a_case_that_failed_as_a_whole_fails_every_quantity() -> None:
    records = [r for r in fake.flops((1024,)) if r.attention == "softmax"]
    records.append(fake.failed("timeout", measure="flops", quantity="flops_torch", unit="flop", attention="soft"))
    found = sheet(records)
    assert list(found.known) == ["flops_torch", "flops_closed_form", "flops_fvcore"]
    soft = found.entries[1]
    assert [row.status for q in found.known if (row := soft.number(q))] == ["timeout"] * 3


def test_measures_are_kept_apart_and_no_records_are_an_error() -> None:
    assert [s.measure for s in sheets(of(to_frame(fake.memory() + fake.latency())))] == ["memory", "latency"]
    with pytest.raises(UsageError, match="no records"):
        sheets(of(pd.DataFrame()))
