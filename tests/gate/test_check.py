"""The check as a whole, on stubs and made-up programmes: what is compared, in which order, and what stops it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compare import fake_runs as runs
from compare.fake_runs import timed
from gate import stub
from reports import fake_records as fake

from softbench import plugins
from softbench.compare.verdicts import Terms
from softbench.errors import ResultsError
from softbench.gate import check, programme, source
from softbench.gate.check import Check
from softbench.gate.programme import Scope, Step
from softbench.gate.source import Source
from softbench.records import Record

SCOPE = Scope("softmax", "16", "forward", device="cpu", threads=1)
HEAD = Source(Path("/head"), "head")


def count(attention: str = "softmax", value: float = 1.0, **changed: Any) -> Record:
    return fake.record("flops", attention, quantity="flops_torch", unit="flop", value=value, samples=[value], detail={},
                       **changed)


Programme = Callable[[dict[tuple[str, str], list[Record]]], list[str]]


@pytest.fixture
def programme_of(monkeypatch: pytest.MonkeyPatch) -> Programme:
    """Makes `programme.run` give these records by version and measure; returns what was run, as it is run."""
    def make(given: dict[tuple[str, str], list[Record]]) -> list[str]:
        ran: list[str] = []

        def run(steps: Sequence[Step], source: Source, on_step: Any = None) -> list[Record]:
            ran.extend(f"{source.name} {step.measure}" for step in steps)
            return [record for measure in dict.fromkeys(step.measure for step in steps)
                    for record in given.get((source.name, measure), [])]

        monkeypatch.setattr(programme, "run", run)
        monkeypatch.setattr(programme, "exact", lambda scope, source, studies: [Step("flops", ())])
        return ran

    return make


def verdicts(outcome: check.Outcome) -> list[str]:
    return [row.verdict for row in outcome.comparison.rows]


def test_exact_quantities_against_a_stored_baseline(tmp_path: Path, programme_of: Programme) -> None:
    runs.write(tmp_path / "m.jsonl", [count(), count("soft", 2.0), count("performer"), fake.record("memory", unit="B")])
    programme_of({("head", "flops"): [count(), count("soft", 2.1), count("mean")]})
    outcome = check.against_stored(Check(SCOPE, Terms()), HEAD, tmp_path)
    assert verdicts(outcome) == ["missing", "worse", "new", "same"]
    assert outcome.comparison.exit_code() == 5
    narrow = check.against_stored(Check(SCOPE, Terms(), narrowed=True), HEAD, tmp_path)
    assert verdicts(narrow) == ["worse", "new", "same"]
    assert narrow.comparison.exit_code() == 3


def test_times_only_where_the_environment_is_this_one(tmp_path: Path, programme_of: Programme) -> None:
    elsewhere = fake.ENVIRONMENT | {"torch": "2.99"}
    ran = programme_of({("head", "flops"): [count()], ("head", "latency"): [timed(2e-3, seed=i) for i in range(3)]})
    said: list[str] = []
    asked = Check(SCOPE, Terms(), say=said.append)
    runs.write(tmp_path / "m.jsonl", [count(), *(timed(seed=5 + i, environment=elsewhere) for i in range(3))])
    outcome = check.against_stored(asked, HEAD, tmp_path)
    assert (verdicts(outcome), outcome.comparison.exit_code()) == (["same"], 0)
    assert said[-1] == "Times are not compared: the baseline has none of this environment (torch 2.99, here 2.10.0)."
    assert ran == ["head flops"]
    runs.write(tmp_path / "m.jsonl", [count(), *(timed(seed=5 + i) for i in range(3))])
    outcome = check.against_stored(asked, HEAD, tmp_path)
    assert (verdicts(outcome), outcome.comparison.rows[0].units) == (["slower", "same"], "3 runs")
    runs.write(tmp_path / "m.jsonl", [count()])
    check.against_stored(asked, HEAD, tmp_path)
    assert said[-1] == "Times are not compared: the baseline has none."


def test_a_broken_case_stops_the_check_before_any_time(tmp_path: Path, programme_of: Programme) -> None:
    runs.write(tmp_path / "m.jsonl", [count(), timed()])
    ran = programme_of({("head", "flops"): [replace(count(), status="failed", value=None)],
                        ("head", "latency"): [timed(9e-3)]})
    outcome = check.against_stored(Check(SCOPE, Terms()), HEAD, tmp_path)
    assert (verdicts(outcome), ran) == (["broken"], ["head flops"])


def test_no_baseline_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="softbench baseline update"):
        check.against_stored(Check(SCOPE, Terms()), HEAD, tmp_path)


@pytest.mark.parametrize(("only", "expected"), [
    ("both", ["slower", "worse"]), ("exact", ["worse"]), ("times", ["slower"])])
def test_against_another_version(tmp_path: Path, programme_of: Programme, only: str, expected: list[str]) -> None:
    base, head = stub.source(tmp_path, "base"), stub.source(tmp_path, "head", "SECONDS = 2e-3")
    programme_of({("base", "flops"): [count()], ("head", "flops"): [count(value=1.05)]})
    asked = Check(SCOPE, Terms(0.02), exact=only != "times", times=only != "exact", first=2, cap=2)
    outcome = check.against_revision(asked, head, base)
    assert verdicts(outcome) == expected
    assert outcome.comparison.exit_code() == 3
    assert {record.measure for record in outcome.records} == {"flops", "latency"} - (
        {"latency"} if only == "exact" else {"flops"} if only == "times" else set())


def test_what_only_the_base_measures_is_not_missing(tmp_path: Path, programme_of: Programme) -> None:
    """A measure that the head no longer has, or the base not yet, is not a case that broke."""
    programme_of({("base", "flops"): [count()], ("head", "flops"): [count(), fake.record("operators", unit="1")]})
    asked = Check(SCOPE, Terms(), times=False)
    assert verdicts(check.against_revision(asked, HEAD, Source(Path("/base"), "base"))) == ["same"]


def test_times_alone_against_a_stored_baseline_ask_only_for_what_measures_can_do(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small step says which environment this is; it must be one that its measure accepts."""
    asked: list[Step] = []

    def run(steps: Sequence[Step], source: Source, on_step: Any = None) -> list[Record]:
        asked.extend(steps)
        return [count()] if steps[0].measure == "flops" else [timed(seed=i) for i in range(3)]

    monkeypatch.setattr(programme, "run", run)
    runs.write(tmp_path / "m.jsonl", [timed(seed=5 + i) for i in range(3)])
    outcome = check.against_stored(Check(Scope("softmax", "16"), Terms(), exact=False), HEAD, tmp_path)
    assert verdicts(outcome) == ["same"]
    small = asked[0].arguments
    assert small[small.index("--mode") + 1] in plugins.load("measures", "flops").MODES


def test_an_attention_that_only_the_head_has_is_new(tmp_path: Path, programme_of: Programme,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programme, "attentions", lambda version: ["soft", "mean"] if version is HEAD else ["soft"])
    ran = programme_of({("head", "flops"): [count("mean")]})
    outcome = check.against_revision(Check(Scope("mean"), Terms(), times=False), HEAD, Source(Path("/base"), "base"))
    assert ran == ["head flops"]
    assert outcome.comparison.exit_code() == 5  # nothing to compare it with


def test_the_times_of_all_attentions_are_planned_at_one_length_and_mode() -> None:
    jobs = check.plan(Check(Scope(device="cpu"), Terms()), source.head()).jobs
    assert {(job.case.shape.tokens, job.case.mode) for job in jobs} == {(1024, "forward_backward")}
    assert len(jobs) == len(programme.attentions(source.head()))
    named = check.plan(Check(Scope("soft", device="cpu"), Terms()), source.head()).jobs
    assert len(named) == 4
