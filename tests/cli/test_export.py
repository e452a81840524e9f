"""`softbench export` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import fake_runs as runs
from reports import fake_records as fake

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _files(_elsewhere: None) -> None:
    runs.write("a.jsonl", [*fake.latency(), *fake.memory(), fake.record(value=5e-3, samples=[5e-3])])


def test_to_stdout_and_to_a_file(run: Run) -> None:
    code, out, err = run("export", "a.jsonl", "--format", "github-action")
    assert (code, err) == (0, "")
    written = run("export", "a.jsonl", "--format", "github-action", "--out", "new/x.json")
    assert written == (0, "", "Written: new/x.json\n")
    assert Path("new/x.json").read_text() == out
    assert [p.name for p in Path("new").iterdir()] == ["x.json"]


def test_only_the_latest_record_of_a_case_and_of_one_measure(run: Run) -> None:
    _, out, _ = run("export", "a.jsonl", "--format", "github-action", "--measure", "latency")
    found = {entry["name"]: entry["value"] for entry in json.loads(out)}
    assert len(found) == 14
    assert [value for name, value in found.items() if "softmax" in name and "32x32" in name] == [5e-3]


def test_a_torn_line_is_warned_of(run: Run) -> None:
    with Path("a.jsonl").open("a") as file:
        file.write('{"mea')
    code, out, err = run("export", "a.jsonl", "--format", "junit")
    assert code == 0
    assert out.startswith("<?xml")
    assert "is torn" in err


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (("--format", "junit"), 2, "Missing argument"), (("a.jsonl",), 2, "Missing option '--format'"),
    (("a.jsonl", "--format", "xml"), 2, "'xml' is not one of"),
    (("b.jsonl", "--format", "junit"), 1, "No result file 'b.jsonl'"),
    (("a.jsonl", "--format", "junit", "--measure", "latncy"), 2, "Did you mean 'latency'?"),
    (("a.jsonl", "--format", "pytest-benchmark", "--measure", "memory"), 2, "No record is a time"),
    (("a.jsonl", "--format", "junit", "--out", "a.jsonl/x"), 1, "Cannot write a.jsonl/x"),
])
def test_errors_are_one_line(run: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    found, out, err = run("export", *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert "Traceback" not in err
