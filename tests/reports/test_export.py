"""Exports, read back by the tools they are for: pytest-benchmark itself, and an XML parser."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as xml

import pytest
from pytest_benchmark.stats import Stats
from reports import fake_records as fake

from softbench.errors import UsageError
from softbench.records import Record
from softbench.reports import export

RECORDS = [*fake.latency(), *fake.memory((1024,)), *fake.flops((1024,)), *fake.generic(),
           fake.failed("failed", note="wrong <&> \"result\""), fake.failed("unsupported", tokens=16)]


def test_pytest_benchmark_reads_and_compares_what_it_gets(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(export.pytest_benchmark(RECORDS))
    (tmp_path / "b.json").write_text(export.pytest_benchmark(RECORDS))
    done = subprocess.run([sys.executable, "-m", "pytest_benchmark", "compare", "a.json", "b.json", "--csv=c.csv"],
                          cwd=tmp_path, capture_output=True, text=True, check=True)
    lines = (tmp_path / "c.csv").read_text().splitlines()
    times = [r for r in fake.latency() if r.value is not None]
    assert len(lines) == 1 + 2 * len(times)
    assert "benchmark 'latency, 16x16': 6 tests" in done.stdout


def test_pytest_benchmark_has_the_statistics_of_the_samples() -> None:
    record = fake.record(value=2.0, samples=[1.0, 2.0, 3.0, 10.0])
    (found,) = json.loads(export.pytest_benchmark([record]))["benchmarks"]
    stats = found["stats"]
    assert (stats["min"], stats["max"], stats["mean"], stats["median"], stats["rounds"]) == (1.0, 10.0, 4.0, 2.0, 4)
    assert (stats["q1"], stats["q3"], stats["iqr"], stats["ops"], stats["total"]) == (1.5, 6.5, 5.0, 0.25, 16.0)
    assert stats["data"] == [1.0, 2.0, 3.0, 10.0]
    assert stats["iterations"] == 1
    (several,) = json.loads(export.pytest_benchmark([fake.record(detail={"calls_per_sample": 7})]))["benchmarks"]
    assert several["stats"]["iterations"] == 7
    (single,) = json.loads(export.pytest_benchmark([fake.record(value=2.0, samples=[2.0])]))["benchmarks"]
    assert single["stats"]["stddev"] == 0.0


@pytest.mark.parametrize("count", [*range(1, 14), 50])
@pytest.mark.parametrize("spread", [0.1, 2.0])  # the wider one has outliers
def test_every_statistic_is_the_one_that_pytest_benchmark_computes(count: int, spread: float) -> None:
    own = Stats()
    draw = random.Random(count)
    for _ in range(count):
        own.update(draw.lognormvariate(0.0, spread))
    record = fake.record(value=own.median, samples=own.data)
    (found,) = json.loads(export.pytest_benchmark([record]))["benchmarks"]
    numbers = [key for key in own.fields if key not in ("outliers", "hd15iqr")]  # of the latter, versions disagree
    assert [found["stats"][key] for key in numbers] == pytest.approx([getattr(own, key) for key in numbers], rel=1e-9)
    assert found["stats"]["outliers"] == own.outliers


def test_samples_beyond_the_others_are_counted() -> None:
    record = fake.record(value=1.0, samples=[1.0] * 5 + [1.1] * 5 + [9.0])
    stats = json.loads(export.pytest_benchmark([record]))["benchmarks"][0]["stats"]
    assert (stats["outliers"], stats["hd15iqr"], stats["max"]) == ("1;1", 1.1, 9.0)


def test_github_action_gets_costs_in_si_units_and_nothing_for_which_more_may_be_better() -> None:
    found = json.loads(export.github_action(RECORDS))
    assert {entry["unit"] for entry in found} == {"s", "bytes", "FLOP"}
    assert all(set(entry) <= {"name", "unit", "value", "range", "extra"} for entry in found)
    (entry,) = json.loads(export.github_action([fake.record(value=2.0, samples=[1.0, 2.0, 3.0])]))
    assert (entry["value"], entry["range"], entry["extra"]) == (2.0, "± 0.5", "xeon-2c-8g-1a2b3c, 3 samples")
    (entry,) = json.loads(export.github_action([fake.record(samples=[])]))
    assert "range" not in entry


def test_junit_has_a_test_for_each_record_and_says_what_failed() -> None:
    root = xml.fromstring(export.junit(RECORDS))
    tests = root.findall(".//testcase")
    assert len(tests) == len(RECORDS)
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["latency", "memory", "flops", "quality"]
    assert [suites["latency"].get(key) for key in ("tests", "failures", "skipped")] == ["17", "2", "1"]
    assert sum(int(suite.get("failures", "")) for suite in root) == len(root.findall(".//failure")) == 5
    messages = [failure.get("message") for failure in root.iter("failure")]
    assert messages[:2] == ["oom: needs 8.0 GiB, 2.0 GiB is free", "failed: wrong <&> \"result\""]
    assert messages[2] == "failed: the counts differ by more than 1%"
    assert tests[0].get("time") == "0.002281600"
    assert tests[0].findtext("system-out") == "2.28 ms"


@pytest.mark.parametrize("text", ["a\x00b\x1bc", "x\ud800y", "\ufffe\uffff", "]]>", "<!--", "tab\tline\nend", "ü𝄞"])
def test_no_text_of_a_record_breaks_the_xml(text: str) -> None:
    record = replace(fake.failed("failed", note=text), label=text, measure=text, coords={text: text})
    root = xml.fromstring(export.junit([record]).encode())
    (test,) = root.iter("testcase")
    clean = re.sub("[\x00-\x1f\ud800-\udfff\ufffe\uffff]", "", text)
    assert "".join(str(test.get("name")).split()).startswith("".join(clean.split()))


def test_names_are_stable_and_tell_all_records_apart() -> None:
    points = [fake.record(**{key: value}) for key, value in (
        ("batch", 2), ("heads", 2), ("rows", 2), ("cols", 2), ("head_dim", 2), ("dtype", "float16"), ("device", "cuda"),
        ("seed", 1), ("mode", "backward"), ("impl", "x"), ("label", "x"), ("quantity", "x"), ("measure", "x"),
        ("coords", {"inputs": "image"}))]
    elsewhere = fake.record(environment=fake.ENVIRONMENT | {"machine": "epyc"})
    names = [entry["name"] for entry in json.loads(export.github_action([fake.record(), *points, elsewhere]))]
    assert len(set(names)) == len(names)
    assert names[0] == "latency, softmax, sdpa, B1 H8 32x32 D64, forward, float32, cpu, seed 0, inputs normal"
    assert names[-1] == names[0] + ", epyc #2"


@pytest.mark.parametrize(("form", "records"), [
    ("pytest-benchmark", fake.memory()), ("pytest-benchmark", [fake.record(samples=[])]), ("github-action", []),
    ("github-action", [r for r in fake.generic() if r.unit == "image/s"]), ("junit", [])])
def test_nothing_to_export_is_an_error(form: str, records: list[Record]) -> None:
    with pytest.raises(UsageError, match=r"^(No record|There is no record).*\.$"):
        export.FORMATS[form](records)
