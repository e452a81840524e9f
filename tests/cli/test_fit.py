"""`softbench fit`, end to end at tiny sizes, with trials that are made up, and a few in real child processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import plugin_files
import pytest

from softbench import parsing, records
from softbench.bench import trial as _trial
from softbench.bench.trial import Trial
from softbench.case import Case, Shape
from softbench.measures import latency
from softbench.subjects import load, workload

Run = Callable[..., tuple[int, str, str]]
POINT = ("--heads", "1", "--head-dim", "4", "--device", "cpu", "--threads", "1", "--out", "f.jsonl")
COMMAND = ("fit", "--attn", "softmax,soft:landmarks=4", "--max-tokens", "64k", *POINT)
MIB = 1 << 20


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, str]]:
    """Trials that take 100 B and 10 us a token of softmax, a tenth of soft; returns which were asked for."""
    asked: list[tuple[str, int, str]] = []

    def share(case: Case) -> float:
        return case.shape.tokens * case.shape.batch * (1.0 if case.spec.name == "softmax" else 0.1)

    def memory(case: Case, subject: Any, limit: int, timeout: float) -> Trial:
        asked.append((case.spec.name, case.shape.tokens * case.shape.batch, "memory"))
        held = 100 * share(case)
        return Trial("ok", held=held) if held <= limit else Trial("oom", "DefaultCPUAllocator: can't allocate memory")

    def seconds(case: Case, subject: Any, settings: Any, budget: float, timeout: float) -> Trial:
        asked.append((case.spec.name, case.shape.tokens * case.shape.batch, "latency"))
        return Trial("ok", samples=[1e-5 * share(case)] * 3)

    monkeypatch.setattr(_trial, "memory", memory)
    monkeypatch.setattr(_trial, "seconds", seconds)
    return asked


def answers(path: str = "f.jsonl") -> dict[str, records.Record]:
    return {r.label: r for r in records.latest(records.read(path)[0]) if r.quantity.startswith("largest_")}


@pytest.mark.parametrize("status", ["failed", "timeout", "unsupported"])
def test_where_no_size_could_be_tried_there_is_no_answer(run: Run, made_up: list[Any], status: str,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that died says nothing about a budget, and 0 would be an answer."""
    monkeypatch.setattr(_trial, "memory", lambda *asked: Trial(status, "the child process ended with 1"))
    code, out, _ = run(*COMMAND, "--memory", "1MiB")
    assert code == 5
    assert {(r.value, r.status, r.note) for r in answers().values()} == {
        (None, status, "the child process ended with 1")}
    assert "not even" not in out


def test_memory_binds(run: Run, made_up: list[Any]) -> None:
    code, out, err = run(*COMMAND, "--memory", "1MiB")
    assert code == 0, err
    found = answers()
    size = found["softmax"].value
    assert size is not None
    assert 10485 / 1.06 < size <= 10485
    assert found["softmax"].detail["binds"] == "memory"
    assert found["softmax"].detail["above"] > 10485
    assert found["soft:landmarks=4"].detail["binds"] == "nothing, up to 65,536"
    assert "budget of memory 1MiB" in " ".join(out.split())
    assert f"{size:,.0f}" in out
    assert {kind for *_, kind in made_up} == {"memory"}
    trials = [r for r in records.read("f.jsonl")[0] if r.quantity == "memory_tried"]
    assert len(trials) == len(made_up)
    assert {r.status for r in trials} == {"ok", "oom"}
    assert all(r.detail["fits"] == (r.status == "ok") for r in trials)
    assert run("show", "f.jsonl")[:2] == (0, out)


def test_the_tighter_budget_binds_and_what_does_not_fit_is_not_timed(run: Run, made_up: list[Any]) -> None:
    code, out, _ = run(*COMMAND, "--memory", "1MiB", "--latency", "20ms")
    assert code == 0
    found = answers()
    assert found["softmax"].detail["binds"] == "latency"
    assert found["softmax"].value == pytest.approx(2000, rel=0.06)
    too_large = {(name, n) for name, n, kind in made_up if n * (100 if name == "softmax" else 10) > MIB}
    assert not too_large & {(name, n) for name, n, kind in made_up if kind == "latency"}
    there = next(r for r in records.read("f.jsonl")[0] if r.label == "softmax" and r.quantity == "latency_there")
    assert there.value == pytest.approx(1e-5 * found["softmax"].value)
    assert "what binds" in out


def test_not_even_the_smallest_and_all_up_to_the_largest(run: Run, made_up: list[Any]) -> None:
    code, out, _ = run(*COMMAND, "--latency", "500us")
    assert code == 0
    assert answers()["softmax"].value == 0
    assert "latency: not even 64 tokens" in out
    code, out, _ = run(*COMMAND[:-1], "g.jsonl", "--latency", "10s")
    assert code == 0
    assert out.count("nothing, up to 65,536") == 2


def test_the_batch_can_vary(run: Run, made_up: list[Any]) -> None:
    code, out, _ = run(*COMMAND, "--vary", "batch", "--tokens", "1k", "--memory", "1MiB", "--max-batch", "64",
                       "--plot", "p.svg")
    assert code == 0
    assert answers()["softmax"].value == 10
    assert "largest batch" in out
    assert "tokens of each 1024" in " ".join(out.split())
    assert Path("p-batch.svg").exists()
    assert not Path("p-tokens.svg").exists()
    run(*COMMAND, "--vary", "batch", "--tokens", "128k", "--memory", "1MiB", "--max-batch", "64")
    assert "memory: not even 1 of 131,072 tokens" in run("show", "f.jsonl")[1]


def test_a_machine_with_less_than_the_budget_says_so(
        run: Run, made_up: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trial, "free", lambda device: MIB)
    code, out, _ = run(*COMMAND, "--memory", "16GiB")
    assert code == 0
    assert answers()["softmax"].detail["binds"] == "this machine's memory"
    assert "only 1 MiB are free here, less than the budget: the answer is for them" in " ".join(out.split())


def test_trials_that_take_too_long(run: Run, made_up: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trial, "seconds", lambda case, *_: Trial("ok", samples=[1e-3]) if case.shape.tokens < 500
                        else Trial("timeout", "no result within 60 s"))
    code, out, _ = run(*COMMAND, "--latency", "50ms")
    assert code == 0  # slower than the budget is an answer
    assert answers()["softmax"].detail["binds"] == "latency"
    monkeypatch.setattr(_trial, "memory", lambda case, *_: Trial("ok", held=1.0) if case.shape.tokens < 500
                        else Trial("timeout", "no result within 60 s"))
    code, out, _ = run(*COMMAND[:-1], "g.jsonl", "--memory", "1GiB")
    assert code == 5  # the budget was never reached
    assert "the time of a trial" in out


def test_resume_and_pictures(run: Run, made_up: list[Any]) -> None:
    code, out, _ = run(*COMMAND, "--memory", "1MiB", "--plot", "p.png")
    assert code == 0
    assert Path("p-tokens.png").stat().st_size > 5000
    count = len(made_up)
    code, again, err = run(*COMMAND, "--memory", "1MiB", "--resume")
    assert (code, again, len(made_up)) == (0, out, count)
    assert "Resuming: 2 of 2 tasks" in err
    run(*COMMAND, "--memory", "2MiB", "--resume")
    assert len(made_up) > count  # another budget is another question


def test_a_wrong_attention_has_no_answer(run: Run, made_up: list[Any], tmp_path: Path) -> None:
    wrong = plugin_files.write(tmp_path, "half_wrong")
    code, out, _ = run("fit", "--attn", wrong, "--memory", "1MiB", *POINT)
    assert code == 5
    assert "in float64" in out
    assert made_up == []


@pytest.mark.parametrize(("arguments", "message"), [
    ((), "There is no budget: give --memory 16GiB, --latency 50ms, or both"),
    (("--memory", "16"), "--memory must be at least 1MiB, not 16"),
    (("--memory", "lots"), "is not an amount of memory"),
    (("--latency", "0"), "--latency must be from 1us to 24h"), (("--latency", "quick"), "is not a time"),
    (("--memory", "1GiB", "--vary", "heads"), "vary must be one of tokens, batch"),
    (("--memory", "1GiB", "--min-tokens", "128k"), "--min-tokens 131,072 is above --max-tokens 65,536"),
    (("--memory", "1GiB", "--precision", "0"), "precision must be at least 0.001"),
    (("--memory", "1GiB", "--tokens", "few"), "'few' is not a positive whole number"),
    (("--memory", "1GiB", "--attn", "sofft"), "Did you mean 'soft'?"),
    (("--memory", "1GiB", "--mode", "back"), "No mode named 'back'"),
    (("--memory", "1GiB", "--memmory", "2"), "No such option")])
def test_mistakes_are_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*COMMAND, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("f.jsonl").exists()


def test_what_is_far_beyond_the_budget_is_not_repeated() -> None:
    case, subject = case_of("softmax")
    built = workload.build(case, subject)
    settings = latency.Settings(rep=1, warmup=0, rounds=1)
    assert len(_trial._timed(built, settings, 1e-9).samples) == 1
    assert len(_trial._timed(built, settings, 10.0).samples) >= 3


def case_of(attn: str, tokens: int = 64) -> tuple[Case, Any]:
    (spec,) = parsing.attentions(attn)
    return Case(spec, Shape(1, 1, tokens // 8, 8, 8)), load(spec)


def test_a_child_tells_whether_a_call_fits(tmp_path: Path) -> None:
    case, subject = case_of(plugin_files.write(tmp_path, "hungry"))  # 512 MiB in one call
    assert _trial.memory(case, subject, 500 * MIB, 60).status == "oom"
    fits = _trial.memory(case, subject, 700 * MIB, 60)
    assert fits.status == "ok"
    assert fits.held is not None
    assert 500 * MIB < fits.held < 560 * MIB


def test_inputs_that_exceed_the_limit_are_never_made() -> None:
    case, subject = case_of("softmax", tokens=1 << 24)
    with pytest.raises(MemoryError, match="inputs and parameters alone take 1,610,612,736 B"):
        _trial._held(case, subject, MIB)


def test_a_child_tells_the_latency_and_ends_in_time(tmp_path: Path) -> None:
    case, subject = case_of("softmax")
    settings = latency.Settings(rep=5, warmup=1, rounds=1)
    trial = _trial.seconds(case, subject, settings, 1.0, 60)
    assert trial.status == "ok"
    assert len(trial.samples) >= 3
    assert all(0 < s < 1 for s in trial.samples)
    case, subject = case_of(plugin_files.write(tmp_path, "slow"), tokens=2048)
    trial = _trial.seconds(case, subject, settings, 1e-3, 1.0)
    assert (trial.status, trial.note) == ("timeout", "no result within 1 s")
