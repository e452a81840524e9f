"""`softbench check`, `baseline` and `doctor` as a user sees them; the measuring behind them is made up here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from compare import fake_runs as runs
from compare.fake_runs import timed
from gate import stub
from reports import fake_records as fake

from softbench import records
from softbench.cli import cli
from softbench.gate import programme, source
from softbench.gate.programme import Step
from softbench.gate.source import Source
from softbench.records import Record

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--attn", "softmax", "--tokens", "16", "--mode", "forward", "--threads", "1", "--device", "cpu")


def count(value: float = 1.0, **changed: Any) -> Record:
    return fake.record("flops", quantity="flops_torch", unit="flop", value=value, samples=[value], detail={}, **changed)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Record]]:
    """What the programme will find, by measure; tests fill it in."""
    given: dict[str, list[Record]] = {}

    def run(steps: Sequence[Step], version: Source, on_step: Callable[[Step], None] = print,
            ending: Any = None) -> list[Record]:
        for step in steps:
            on_step(step)
        return [record for measure in dict.fromkeys(step.measure for step in steps)
                for record in given.get(measure, [])]

    monkeypatch.setattr(programme, "run", run)
    return given


def head(monkeypatch: pytest.MonkeyPatch, version: Source) -> None:
    monkeypatch.setattr(source, "head", lambda: version)


def test_check_against_a_stored_baseline(run: Run, measured: dict[str, list[Record]]) -> None:
    Path("results/baseline").mkdir(parents=True)
    runs.write("results/baseline/m.jsonl", [count()])
    measured["flops"] = [count()]
    code, out, err = run("check")
    assert (code, out) == (0, "1 same.\n")
    assert "Times are not compared: the baseline has none." in err
    measured["flops"] = [count(1.05)]
    code, out, _ = run("check", "--out", "new.jsonl")
    assert code == 3
    assert "1.05x  worse" in out
    assert [record.value for record in records.read("new.jsonl")[0]] == [1.05]
    measured["flops"] = [fake.failed("failed", measure="flops", quantity="flops_torch", unit="flop", note="wrong")]
    assert run("check")[0] == 5
    measured["flops"] = []
    assert run("check", "--only", "exact")[0] == 5


def test_a_case_may_be_removed_on_purpose(run: Run, measured: dict[str, list[Record]]) -> None:
    Path("results/baseline").mkdir(parents=True)
    runs.write("results/baseline/m.jsonl", [count(), count(label="soft")])
    measured["flops"] = [count()]
    assert run("check", "--only", "exact")[0] == 5
    code, out, _ = run("check", "--only", "exact", "--allow-missing")
    assert code == 0
    assert "only the base has it" in out


def test_check_uses_the_noise_that_the_doctor_found(run: Run, measured: dict[str, list[Record]]) -> None:
    from softbench.gate import noise, store

    Path("results/baseline").mkdir(parents=True)
    runs.write("results/baseline/m.jsonl", [count(), *(timed(1e-3, seed=i) for i in range(3))])
    measured |= {"flops": [count()], "latency": [timed(1.2e-3, seed=9 + i) for i in range(3)]}
    assert run("check")[0] == 3
    store.write(store.NOISE, noise.as_records(noise.Noise(0.5, 0.5, 10, 4), fake.ENVIRONMENT))
    code, out, _ = run("check")
    assert code == 0
    assert "A change counts from 50 %, twice the noise of this machine," in out


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (("check",), 1, "No baseline in results/baseline"),
    (("check", "--against", "elsewhere"), 1, "No baseline in elsewhere"),
    (("check", "--base", "HEAD", "--against", "x"), 2, "Give one of them"),
    (("check", "--only", "rubbish"), 2, "'rubbish' is not one of"),
    (("check", "--rounds", "1"), 2, "1 is not in the range"),
    (("check", "--threshold", "nan"), 2, "nan is not a finite number"),
    (("check", "--floor-us", "inf"), 2, "inf is not a finite number"),
    (("check", "--base", "no-such-revision"), 2, "Error: --base"),
    (("check", "--base", ""), 2, "Error: --base"),
    (("check", "--budget", "0"), 2, "--budget must be from 100ms to"),
    (("check", "--budget", "-5"), 2, "--budget must be from 100ms to"),
    (("check", "--budget", "nan"), 2, "'nan' is not a time"),
    (("check", "--budget", "soon"), 2, "'soon' is not a time"),
    (("doctor", "--rounds", "1"), 2, "1 is not in the range"),
    (("baseline", "updaet"), 2, "No such command 'updaet'"),
])
def test_errors_are_one_line(run: Run, arguments: tuple[str, ...], code: int, words: str) -> None:
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1


def test_check_against_a_revision(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stubs for both versions: the threshold, the rounds and the exit code of a slowdown."""
    from contextlib import nullcontext

    base, slow = stub.source(tmp_path, "base"), stub.source(tmp_path, "head", "SECONDS = 1.1e-3")
    head(monkeypatch, slow)
    monkeypatch.setattr(source, "revision", lambda rev: nullcontext(base))
    command = ("check", "--base", "main", "--only", "times", *QUICK, "--rounds", "3", "--most-rounds", "3")
    code, out, err = run(*command)
    assert code == 3
    assert "1 slower." in out
    assert "3 pairs" in run(*command, "--format", "csv")[1]
    assert "Round 3: 1 cases." in err
    assert run(*command, "--threshold", "30")[0] == 0


def test_what_is_checked_is_told_with_its_time_before_it_starts(run: Run, measured: dict[str, list[Record]]) -> None:
    Path("results/baseline").mkdir(parents=True)
    runs.write("results/baseline/m.jsonl", [count()])
    measured["flops"] = [count()]
    code, out, err = run("check", "--only", "exact", "--attn", "softmax", "--no-studies")
    assert code == 0
    assert err.startswith("About 5 s on two idle cores. --budget bounds it, --dry-run lists the parts.\nflops of ")
    code, out, err = run("check", "--attn", "softmax", "--no-studies", "--dry-run", "--out", "new.jsonl")
    assert (code, err) == (0, "")
    assert "5 to 23 s on two idle cores, not run." in out
    assert re.search("exact quantities of this checkout +10 +5 s", out)
    assert not Path("new.jsonl").exists()


def test_the_budget_ends_a_pair_between_its_rounds(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer of a worker takes a second of a made-up clock."""
    from contextlib import nullcontext

    from softbench.gate import ending, paired

    now = [0.0]

    def ask(self: Any, side: int, workers: Any, request: Any, usual: Any = paired.Pair._ask) -> Any:
        now[0] += 1.0
        return usual(self, side, workers, request)

    monkeypatch.setattr(ending.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ending.Ending.__init__, "__defaults__", (float("inf"), lambda: now[0]))
    monkeypatch.setattr(paired.Pair, "_ask", ask)
    noisy = "NOISE = 0.3"
    head(monkeypatch, stub.source(tmp_path, "head", noisy))
    monkeypatch.setattr(source, "revision", lambda rev: nullcontext(stub.source(tmp_path, "base", noisy)))
    code, out, _ = run("check", "--base", "main", "--only", "times", *QUICK, "--budget", "14", "--fail-on-inconclusive",
                       "--out", "kept.jsonl")
    assert code == 4
    assert "open when the budget of 14 s was over" in out
    (kept,) = records.read("kept.jsonl")[0]
    # Of five answers each. The last one of the third comes as the budget is over, and may be there or not.
    assert len(kept.detail["samples_per_round"]) in (2, 3)


def test_a_worker_that_dies_is_an_error_and_no_slowdown(run: Run, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    head(monkeypatch, stub.source(tmp_path, "head", "raise SystemExit('boom')"))
    monkeypatch.setattr(source, "revision", lambda rev: nullcontext(stub.source(tmp_path, "base")))
    code, out, err = run("check", "--base", "main", "--only", "times", *QUICK)
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == "Error: The worker of head ended with 1: boom"


@pytest.mark.parametrize(("dirty", "commit", "words"), [(True, "abc", "has changes that no commit holds"),
                                                        (None, None, "is no git checkout")])
def test_a_baseline_is_not_made_from_a_dirty_tree(run: Run, measured: dict[str, list[Record]], dirty: bool | None,
                                                  commit: str | None, words: str,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    head(monkeypatch, Source(source.HERE, "here", commit, dirty))
    measured["flops"] = [count()]
    code, _, err = run("baseline", "update")
    assert code == 2
    assert words in err
    assert not Path("results").exists()
    assert run("baseline", "update", "--force")[0] == 0
    assert Path("results/baseline/xeon-2c-8g-1a2b3c.jsonl").exists()


def test_a_baseline_replaces_the_one_before_and_is_what_check_reads(run: Run, measured: dict[str, list[Record]],
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    head(monkeypatch, Source(source.HERE, "here", "abc", False))
    for value in (1.0, 2.0):
        measured |= {"flops": [count(value)], "latency": [timed(seed=i) for i in range(3)]}
        assert run("baseline", "update", "--out", "mine")[0] == 0
    (path,) = Path("mine").iterdir()
    assert [record.value for record in records.read(path)[0] if record.measure == "flops"] == [2.0]
    code, out, _ = run("check", "--against", "mine")
    assert code == 0
    assert out.endswith("2 same.\n")


def test_a_baseline_with_failures_is_not_written(run: Run, measured: dict[str, list[Record]],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    head(monkeypatch, Source(source.HERE, "here", "abc", False))
    measured["flops"] = [count(), fake.failed("failed", measure="flops", note="the counts differ")]
    code, _, err = run("baseline", "update")
    assert code == 1
    assert "1 cases failed, the first with: softmax, the counts differ" in err
    assert not Path("results").exists()


def test_the_doctor_says_what_is_wrong_and_keeps_the_noise(run: Run, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    head(monkeypatch, stub.source(tmp_path, "here", "NOISE = 0.01"))
    code, out, err = run("doctor", *QUICK, "--rounds", "4")
    assert code == 0
    assert "noise floor (6 rounds)" in out
    assert "found 9 times in 10 by 24 rounds" in out
    assert "Noise of this machine: results/doctor/stub.jsonl" in err
    found = {record.quantity: record.value for record in records.read("results/doctor/stub.jsonl")[0]}
    assert found["round_noise"] is not None
    assert 0.0 < found["round_noise"] < 0.05


PAGES = [source.HERE / "docs" / "regression.md", source.HERE / "docs" / "ci.md",
         source.HERE / ".github" / "workflows" / "regression.yml"]
COMMANDS = sorted({line.partition("#")[0].partition(">>")[0].partition("|")[0].strip().removeprefix("- run: ")
                   for page in PAGES if page.exists() for line in page.read_text().splitlines()
                   if re.match(r"\s*(- run: )?softbench ", line)})


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_pages_exist_with_all_their_flags(command: str) -> None:
    _, verb, *arguments = shlex.split(command)
    found = cli.get_command(click.Context(cli), verb)
    assert found is not None
    if isinstance(found, click.Group):
        verb, *arguments = arguments
        found = found.commands[verb]
    assert found.make_context(verb, arguments)


def test_there_are_commands_on_the_pages() -> None:
    assert len(COMMANDS) >= 10


def test_the_doctor_can_only_look(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    code, out, _ = run("doctor", "--look-only")
    assert code == 0
    assert "other processes" in out
    assert not Path("results").exists()


def test_the_doctor_says_why_nothing_could_be_measured(run: Run, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    refuse = 'def PREPARE(case): return {"status": "oom", "note": "no room", "impl": "", "options": {}}'
    head(monkeypatch, stub.source(tmp_path, "here", refuse))
    code, out, err = run("doctor", *QUICK, "--rounds", "2")
    assert (code, out) == (1, "")
    assert "nothing is known of this machine's noise: no room" in err
