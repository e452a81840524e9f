"""A measure, a study and a task of another package take part everywhere, and no file of softbench names them."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import task_contract

from softbench import plugins, records
from softbench.gate import programme, source
from softbench.gate.programme import Scope
from softbench.records import Record

Run = Callable[..., tuple[int, str, str]]
INSTALLED = Path(__file__).parents[1] / "data" / "third_party"
CASES = ("--attn", "performer", "--tokens", "16,64", "--device", "cpu", "--threads", "1")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package is on the path, of this process and of its children."""
    monkeypatch.syspath_prepend(INSTALLED)
    monkeypatch.setenv("PYTHONPATH", str(INSTALLED))
    plugins._entry_points.cache_clear()
    yield
    plugins._entry_points.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


def changed(path: str, out: str, quantity: str, factor: float) -> list[Record]:
    """The records of a file, those of one quantity times a factor, in another file."""
    found = [replace(record, value=record.value * factor, samples=[s * factor for s in record.samples])
             if record.quantity == quantity and record.value is not None else record
             for record in records.read(path)[0]]
    Path(out).write_text("".join(record.to_json() + "\n" for record in found))
    return found


def test_they_are_listed_and_their_commands_explain_themselves(run: Run) -> None:
    out = run("list")[1]
    assert "how many numbers one call takes in" in out
    assert "long-enough" in out
    assert "an even number or an odd one?" in out
    assert "factor of the fullness" in run("entries", "--help")[1]
    assert "how a call begins" in run("long-enough", "--help")[1]


@pytest.mark.parametrize("check", task_contract.CHECKS)
def test_their_task_keeps_the_contract(check: str) -> None:
    task_contract.CHECKS[check](task_contract.small("parity"))


def test_a_measure_is_run_shown_drawn_and_exported(run: Run) -> None:
    code, out, _ = run("entries", *CASES, "--out", "m.jsonl")
    assert code == 0
    assert out.startswith("entries: numbers that one call takes in.\n")
    assert run("show", "m.jsonl")[1] == out
    header, _, first = out.splitlines()[out.splitlines().index("") + 1:][:3]
    assert header.split() == ["tokens", "attention", "impl", "numbers", "of", "softmax", "fullness", "of", "softmax"]
    assert first.split()[:2] == ["16", "softmax"]
    assert run("plot", "m.jsonl", "--out", "m.svg")[0] == 0
    assert "Numbers taken in" in Path("m.svg").read_text()
    assert "fullness" not in Path("m.svg").read_text()  # it is not drawn
    costs = json.loads(run("export", "m.jsonl", "--format", "github-action")[1])
    assert {cost["unit"] for cost in costs} == {"numbers"}
    suite, = ElementTree.fromstring(run("export", "m.jsonl", "--format", "junit")[1])
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("entries", "8", "0")


def test_a_study_is_run_shown_drawn_and_exported(run: Run) -> None:
    code, out, _ = run("long-enough", "--out", "s.jsonl", "--plot", "s.svg")
    assert code == 0
    assert out.startswith("The shortest length that is worth it\n")
    assert run("show", "s.jsonl")[1] == out
    assert Path("s-lengths.svg").exists()
    assert run("plot", "s.jsonl", "--out", "again.svg")[0] == 0
    suite, = ElementTree.fromstring(run("export", "s.jsonl", "--format", "junit")[1])
    assert (suite.get("name"), suite.get("tests")) == ("long_enough", "6")


def test_the_page_has_their_sections_in_their_places(run: Run) -> None:
    run("latency", *CASES, "--rep", "5", "--warmup", "1", "--rounds", "1", "--out", "l.jsonl")
    run("entries", *CASES, "--out", "m.jsonl")
    run("long-enough", "--out", "s.jsonl")
    assert run("report", "l.jsonl", "m.jsonl", "s.jsonl", "--out", "page.html")[0] == 0
    page = Path("page.html").read_text()
    places = [page.index(f"{title}</h2>") for title in ("What goes in", "Latency", "Worth its start")]
    assert places == sorted(places)


def test_what_follows_from_times_may_change_by_noise_and_what_is_exact_may_not(run: Run) -> None:
    run("entries", *CASES, "--out", "m.jsonl")
    run("long-enough", "--out", "s.jsonl")
    for path, quantity, code, word in (
            ("s.jsonl", "worth_from", 0, "2 not comparable"), ("m.jsonl", "fullness", 0, "4 not comparable"),
            ("s.jsonl", "steps", 3, "2 worse"), ("m.jsonl", "entries", 3, "4 worse")):
        changed(path, "new.jsonl", quantity, 1.5)
        found, out, _ = run("compare", path, "new.jsonl")
        assert (found, word in out.splitlines()[-1]) == (code, True), f"{quantity}: {out}"
    changed("m.jsonl", "new.jsonl", "entries", 0.5)
    assert "4 better" in run("compare", "m.jsonl", "new.jsonl")[1]


def test_the_check_runs_them(tmp_path: Path) -> None:
    steps = programme.exact(Scope("softmax", "16", "forward", device="cpu", threads=1), source.head())
    ours = [step for step in steps if step.measure in ("entries", "long_enough")]
    assert [step.measure for step in ours] == ["entries", "long_enough"]
    found = programme.run(ours, source.head())
    assert {record.quantity for record in found} == {"entries", "fullness", "worth_from", "steps"}  # but no time
    older = source.Source(tmp_path, "a version that does not know how they speak")
    assert programme.exact(Scope("softmax"), older) == []


def test_no_file_of_softbench_names_them() -> None:
    for path in (source.HERE / "softbench").rglob("*.py"):
        words = {node.value for node in ast.walk(ast.parse(path.read_text()))
                 if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        assert words.isdisjoint({"long_enough", "long-enough"}), path
