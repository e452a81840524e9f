"""What names a side, and which files can be one: torn, empty, mixed and foreign files each give one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from compare import fake_runs as runs
from compare.fake_runs import timed
from reports import fake_records as fake

from softbench.compare import sides
from softbench.errors import ResultsError, SoftbenchError, UsageError


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs.write("a.jsonl", [timed(tokens=16), timed(tokens=16, attention="soft")])
    runs.write("b.jsonl", [timed(tokens=64)])


def lengths(side: sides.Side) -> list[int]:
    return [record.tokens for record in side.records]


def test_files_globs_and_folders() -> None:
    base, head = sides.read("a.jsonl", "*.jsonl")
    assert (lengths(base), lengths(head)) == ([16, 16], [16, 16, 64])
    assert lengths(sides.read("a.jsonl", ".")[1]) == [16, 16, 64]


def test_two_subjects_of_one_file() -> None:
    base, head = sides.read("a.jsonl@softmax", "@soft")
    assert ([r.label for r in base.records], [r.label for r in head.records]) == (["softmax"], ["soft"])
    assert (base.label, head.label) == ("softmax", "soft")
    assert sides.keyed(base, impls=False).keys() == sides.keyed(head, impls=False).keys()
    assert sides.read("@soft", "a.jsonl@softmax")[0].records == head.records


def test_a_file_whose_name_has_an_at_is_a_file() -> None:
    runs.write("a@soft", [timed(tokens=256)])
    assert lengths(sides.read("a@soft", "a.jsonl")[0]) == [256]


def test_a_path_with_an_at_and_a_label() -> None:
    Path("x@y").mkdir()
    runs.write("x@y/a.jsonl", [timed(tokens=256)])
    assert lengths(sides.read("x@y/a.jsonl@softmax", "@softmax")[0]) == [256]


@pytest.mark.parametrize(("base", "head", "words"), [
    ("a.jsonl@softmax", "b.jsonl", "one subject and 'b.jsonl' all of a file"),
    ("a.jsonl", "@soft", "one subject and 'a.jsonl' all of a file"),
    ("@soft", "@softmax", "name no file"),
    ("a.jsonl@", "b.jsonl", "ends in @"),
    ("a.jsonl@sofmax", "@soft", "Did you mean 'softmax'?"),
])
def test_sides_that_cannot_be(base: str, head: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        sides.read(base, head)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_measures_are_chosen_by_name() -> None:
    base, _ = sides.read("a.jsonl", "b.jsonl")
    assert sides.only(base, None) is base
    assert sides.only(base, "latency").records == base.records
    with pytest.raises(UsageError, match=r"No measure in a\.jsonl named 'latncy'\. Did you mean 'latency'"):
        sides.only(base, "latency,latncy")


def test_quoted_numbers_are_not_measured_and_do_not_take_part() -> None:
    runs.write("q.jsonl", [timed(environment={}), timed(tokens=4)])
    assert lengths(sides.read("q.jsonl", "a.jsonl")[0]) == [4]
    runs.write("q.jsonl", [timed(environment={})])
    with pytest.raises(ResultsError, match=r"q\.jsonl holds nothing that was measured"):
        sides.read("q.jsonl", "a.jsonl")


def test_only_the_latest_outcome_of_a_task_takes_part() -> None:
    gone = fake.failed("failed", coords={"task": "t"}, detail={"whole_task": True})
    done = timed(coords={"task": "t", "part": "x"})
    runs.write("t.jsonl", [gone, done])
    side, _ = sides.read("t.jsonl", "a.jsonl")
    assert [r.status for group in sides.keyed(side, impls=False).values() for r in group] == ["ok"]


WHOLE = timed().to_json()


def changed(**fields: object) -> bytes:
    """A line that is a record but for these fields."""
    return json.dumps(json.loads(WHOLE) | fields).encode() + b"\n"


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "holds no softbench records: the file is empty"),
    "blank lines": (lambda: b"\n\n \n", "holds no softbench records: the file is empty"),
    "foreign text": (lambda: b"hello\n", "line 1 is not a record (not JSON)"),
    "foreign json": (lambda: b'{"benchmarks": []}\n', "JSON without a schema number"),
    "a list": (lambda: b"[1, 2]\n", "JSON without a schema number"),
    "binary": (lambda: bytes(range(256)) * 4, "is not a record (not JSON)"),
    "another schema": (lambda: changed(schema=9), "schema 9, this softbench reads 2"),
    "all torn": (lambda: WHOLE[: len(WHOLE) // 2].encode(), "is torn (its writer was interrupted)"),
    "NaN": (lambda: changed(value=float("nan")), "NaN is not a finite number"),
    "no environment": (lambda: changed(environment=None), "environment is NoneType"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_without_a_record_is_one_clear_line(kind: str) -> None:
    content, words = FILES[kind]
    Path("x.jsonl").write_bytes(content())
    for sides_of in (("x.jsonl", "a.jsonl"), ("a.jsonl", "x.jsonl")):
        with pytest.raises(SoftbenchError) as raised:
            sides.read(*sides_of)
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)


def test_a_folder_without_results_and_a_file_that_is_none() -> None:
    Path("empty").mkdir()
    with pytest.raises(ResultsError, match=r"No \.jsonl file in empty"):
        sides.read("empty", "a.jsonl")
    with pytest.raises(ResultsError, match=r"No result file 'nothing\.jsonl'"):
        sides.read("a.jsonl", "nothing.jsonl")


@pytest.mark.parametrize("cut", range(1, len(WHOLE), 97))
def test_a_torn_last_line_is_left_out_and_said(cut: int) -> None:
    Path("torn.jsonl").write_text(timed(tokens=256).to_json() + "\n" + WHOLE[:cut])
    side, _ = sides.read("torn.jsonl", "a.jsonl")
    assert lengths(side) == [256]
    assert side.problems == ["torn.jsonl, line 2 is torn (its writer was interrupted); it is left out."]


def test_lines_of_mixed_schemas_are_left_out_and_said() -> None:
    lines = [WHOLE, json.dumps(json.loads(WHOLE) | {"schema": 9}), '{"schema": 1}', "null"]
    Path("mixed.jsonl").write_text("\n".join(lines) + "\n")
    side, _ = sides.read("mixed.jsonl", "a.jsonl")
    assert len(side.records) == 1
    assert len(side.problems) == 3


def test_cases_are_told_apart_by_all_of_their_point() -> None:
    first = timed(tokens=16)
    others = [replace(first, **{key: value}) for key, value in (
        ("quantity", "x"), ("mode", "backward"), ("batch", 2), ("heads", 2), ("rows", 2), ("cols", 2), ("head_dim", 8),
        ("dtype", "float16"), ("device", "cuda"), ("seed", 1), ("coords", {"inputs": "image"}), ("label", "x"),
        ("model", "m"), ("measure", "x"))]
    assert len(sides.keyed(runs.side(first, *others), impls=False)) == len(others) + 1
