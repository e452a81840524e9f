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
from softbench.errors import ResultsError, SoftbenchError
from softbench.gate import check, outlook, programme, source
from softbench.gate.check import Check
from softbench.gate.ending import Ending
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

        def run(steps: Sequence[Step], source: Source, on_step: Any = None, ending: Any = None) -> list[Record]:
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
    outcome = check.against_stored(Check(SCOPE, Terms()), HEAD, check.stored(tmp_path))
    assert verdicts(outcome) == ["missing", "worse", "new", "same"]
    assert outcome.comparison.exit_code() == 5
    narrow = check.against_stored(Check(SCOPE, Terms(), narrowed=True), HEAD, check.stored(tmp_path))
    assert verdicts(narrow) == ["worse", "new", "same"]
    assert narrow.comparison.exit_code() == 3


def test_times_only_where_the_environment_is_this_one(tmp_path: Path, programme_of: Programme) -> None:
    elsewhere = fake.ENVIRONMENT | {"torch": "2.99"}
    ran = programme_of({("head", "flops"): [count()], ("head", "latency"): [timed(2e-3, seed=i) for i in range(3)]})
    said: list[str] = []
    asked = Check(SCOPE, Terms(), say=said.append)
    runs.write(tmp_path / "m.jsonl", [count(), *(timed(seed=5 + i, environment=elsewhere) for i in range(3))])
    outcome = check.against_stored(asked, HEAD, check.stored(tmp_path))
    assert (verdicts(outcome), outcome.comparison.exit_code()) == (["same"], 0)
    assert said[-1] == "Times are not compared: the baseline has none of this environment (torch 2.99, here 2.10.0)."
    assert ran == ["head flops"]
    runs.write(tmp_path / "m.jsonl", [count(), *(timed(seed=5 + i) for i in range(3))])
    outcome = check.against_stored(asked, HEAD, check.stored(tmp_path))
    assert (verdicts(outcome), outcome.comparison.rows[0].units) == (["slower", "same"], "3 runs")
    runs.write(tmp_path / "m.jsonl", [count()])
    check.against_stored(asked, HEAD, check.stored(tmp_path))
    assert said[-1] == "Times are not compared: the baseline has none."


def test_a_broken_case_stops_the_check_before_any_time(tmp_path: Path, programme_of: Programme) -> None:
    runs.write(tmp_path / "m.jsonl", [count(), timed()])
    ran = programme_of({("head", "flops"): [replace(count(), status="failed", value=None)],
                        ("head", "latency"): [timed(9e-3)]})
    outcome = check.against_stored(Check(SCOPE, Terms()), HEAD, check.stored(tmp_path))
    assert (verdicts(outcome), ran) == (["broken"], ["head flops"])


def test_no_baseline_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="softbench baseline update"):
        check.against_stored(Check(SCOPE, Terms()), HEAD, check.stored(tmp_path))


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

    def run(steps: Sequence[Step], source: Source, on_step: Any = None, ending: Any = None) -> list[Record]:
        asked.extend(steps)
        return [count()] if steps[0].measure == "flops" else [timed(seed=i) for i in range(3)]

    monkeypatch.setattr(programme, "run", run)
    runs.write(tmp_path / "m.jsonl", [timed(seed=5 + i) for i in range(3)])
    outcome = check.against_stored(Check(Scope("softmax", "16"), Terms(), exact=False), HEAD, check.stored(tmp_path))
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


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("budget", "expected", "kept"), [
    (100.0, ["worse", "same", "same"], 3), (3.5, ["worse", "inconclusive", "same"], 2),
    (2.5, ["worse", "inconclusive", "inconclusive"], 2), (0.5, ["inconclusive"] * 3, 1)])
def test_what_is_open_when_the_budget_is_over_is_inconclusive(monkeypatch: pytest.MonkeyPatch, budget: float,
                                                              expected: list[str], kept: int) -> None:
    """Each command takes a second of a made-up clock; three measures, of both sides in turn."""
    clock, measures = Clock(), ("flops", "memory", "operators")
    found = {("/head", "flops"): 2.0}

    def run(steps: Sequence[Step], source: Source, on_step: Any, ending: Ending) -> list[Record]:
        if ending.over:
            return []
        clock.now += 1.0
        return [replace(count(value=found.get((str(source.root), step.measure), 1.0)), measure=step.measure)
                for step in steps]

    monkeypatch.setattr(programme, "run", run)
    monkeypatch.setattr(programme, "exact", lambda scope, source, studies: [Step(name, ()) for name in measures])
    records: list[Record] = []
    asked = Check(SCOPE, Terms(), times=False, ending=Ending(budget, clock), keep=records.extend)
    outcome = check.against_revision(asked, HEAD, Source(Path("/base"), "base"))
    assert verdicts(outcome) == expected
    assert len(records) == len(outcome.records) == kept
    opened = [row for row in outcome.comparison.rows if row.verdict == "inconclusive"]
    assert all(row.note == f"open when the budget of {budget:g} s was over" for row in opened)
    assert outcome.comparison.exit_code(fail_on_inconclusive=True) == (3 if "worse" in expected else 5)


def test_a_stored_baseline_has_a_budget_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    def run(steps: Sequence[Step], source: Source, on_step: Any = None, ending: Any = None) -> list[Record]:
        clock.now += 1.0
        return [] if clock.now > 1.0 else [count()]

    monkeypatch.setattr(programme, "run", run)
    monkeypatch.setattr(programme, "exact", lambda scope, source, studies: [Step("flops", ()), Step("memory", ())])
    memory = fake.record("memory", unit="B", value=1.0, samples=[1.0], detail={})
    runs.write(tmp_path / "m.jsonl", [count(), count("soft"), memory])
    outcome = check.against_stored(Check(SCOPE, Terms(), ending=Ending(1.5, clock)), HEAD, check.stored(tmp_path))
    assert verdicts(outcome) == ["missing", "inconclusive", "same"]  # soft was due in the first step, which ended
    assert clock.now == 2.0


def test_a_tool_that_fails_late_does_not_take_the_verdicts_with_it(tmp_path: Path, programme_of: Programme) -> None:
    base, head = stub.source(tmp_path, "base"), stub.source(tmp_path, "head", "raise SystemExit('boom')")
    programme_of({("base", "flops"): [count()], ("head", "flops"): [count()]})
    outcome = check.against_revision(Check(SCOPE, Terms()), head, base)
    assert verdicts(outcome) == ["same"]
    assert "The worker of head ended with 1: boom" in str(outcome.ended)
    with pytest.raises(SoftbenchError, match="boom"):  # where there are none, it is an error as any
        check.against_revision(Check(SCOPE, Terms(), exact=False), head, base)


def test_the_outlook_counts_the_cases_and_bounds_the_time() -> None:
    here = source.head()
    both = outlook.of(Check(Scope("softmax,soft", "16..64"), Terms(), studies=False), here, here)
    flops, others = 2 * 3, 2 * 2 * 3 * 2
    assert [part.cases for part in both] == [flops + others, flops + others, 12]
    assert both[2].low < both[2].high == 4 * both[2].low
    (stored,) = outlook.of(Check(Scope("softmax", "16"), Terms(), exact=False), here, None)
    assert (stored.cases, stored.low) == (2, 0.0)
    everything = outlook.of(Check(Scope(), Terms()), here, here)
    assert everything[2].cases == len(programme.attentions(here))
    assert outlook.span(30, 89) == "30 to 89 s"
    assert outlook.span(119, 121) == "2 min"


def test_the_times_of_all_attentions_are_planned_at_one_length_and_mode() -> None:
    jobs = check.plan(Check(Scope(device="cpu"), Terms()), source.head()).jobs
    assert {(job.case.shape.tokens, job.case.mode) for job in jobs} == {(1024, "forward_backward")}
    assert len(jobs) == len(programme.attentions(source.head()))
    named = check.plan(Check(Scope("soft", device="cpu"), Terms()), source.head()).jobs
    assert len(named) == 4
