"""The command crossover, end to end on tiny sizes: what it prints, keeps, resumes, and refuses."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from softbench import records
from softbench.studies.crossover import planning
from softbench.studies.crossover.meters import Pair
from softbench.studies.crossover.search import Stopped

Run = Callable[..., tuple[int, str, str]]

TINY = ("--heads", "1", "--head-dim", "8", "--min-tokens", "16", "--max-tokens", "64", "--rep", "0.5", "--scan", "3",
        "--rounds", "2", "--max-rounds", "2", "--resolution", "0.5", "--processes", "2", "--mode", "forward",
        "--threads", "1")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Pair, int], float]], list[str]]:
    """Lets a function of the pair and N stand for ln(cost / cost of the baseline); returns who was asked, in order."""
    def install(difference: Callable[[Pair, int], float]) -> list[str]:
        asked: list[str] = []

        class Meter:
            exact = True

            def __init__(self, pair: Pair) -> None:
                self.pair = pair
                asked.append(pair.attention.spec.label)

            def rounds(self, grid: tuple[int, int], seconds: float) -> Generator[float, None, None]:
                yield difference(self.pair, grid[0] * grid[1])

        monkeypatch.setattr(planning, "meter", lambda quantity, pair: Meter(pair))
        return asked

    return install


def falling(pair: Pair, tokens: int) -> float:
    """Every attention crosses at 1,000."""
    return (1000.5 - tokens) / 1e5


def test_it_prints_its_answers_and_keeps_every_probe(run: Run) -> None:
    code, out, err = run("crossover", "--attn", "performer:features=4", *TINY, "--out", "x.jsonl", "--plot", "x.png")
    assert code == 0, err
    assert out.startswith("The length from which on an attention costs less than the baseline")
    assert "baseline softmax" in out
    assert max(map(len, out.splitlines())) <= 80
    found, problems = records.read("x.jsonl")
    assert problems == []
    answers = [r for r in found if r.quantity == "crossover"]
    assert [r.coords["compared"] for r in answers] == ["latency", "memory", "flops"]
    for answer in answers:
        probes = [r for r in found if r.quantity == "ratio" and r.coords["task"] == answer.coords["task"]]
        assert len(probes) == answer.detail["probes"] >= 3
        assert all(16 <= r.tokens <= 64 for r in probes)
        for probe in probes:
            assert probe.value is not None
            if answer.coords["compared"] == "latency":
                low, high = probe.detail["ci95"]
                assert low <= probe.value <= high
                assert len(probe.samples) == 2
    assert all(r.impl not in ("", "auto") for r in found)
    assert Path("x-ratios.png").exists()
    code, shown, _ = run("show", "x.jsonl")
    assert code == 0
    assert shown == out
    sizes = ("--tokens", "64", "--heads", "1", "--head-dim", "8", "--threads", "1", "--attn", "performer:features=4")
    for measure, quantity in (("memory", "peak_memory"), ("flops", "flops_closed_form")):
        run(measure, *sizes, "--out", f"{measure}.jsonl")
        theirs, ours = (next(r.value for r in records.read(f"{measure}.jsonl")[0]
                             if r.quantity == quantity and r.attention == name) for name in ("softmax", "performer"))
        probe = next(r for r in found if r.quantity == "ratio" and r.tokens == 64
                     and r.coords["compared"] == measure)
        assert theirs is not None
        assert ours is not None
        assert probe.value == pytest.approx(ours / theirs)  # the same numbers as the measures have


def test_training_is_forward_and_backward(run: Run, fake: Callable[..., list[str]]) -> None:
    fake(falling)
    assert run("crossover", "--attn", "soft", "--quantities", "memory,flops", "--mode", "training,forward_backward",
               "--dtype", "float32,float64", "--head-dim", "8,16", "--out", "x.jsonl")[0] == 0
    answers = [r for r in records.read("x.jsonl")[0] if r.quantity == "crossover"]
    assert {r.mode for r in answers} == {"forward_backward"}
    assert [(r.coords["compared"], r.dtype, r.head_dim) for r in answers] == list(itertools.product(
        ("memory", "flops"), ("float32", "float64"), (8, 16)))


def test_a_resumed_run_repeats_nothing_that_is_done(run: Run, fake: Callable[..., list[str]]) -> None:
    asked = fake(falling)
    command = ("crossover", "--quantities", "flops", "--mode", "forward", "--out", "x.jsonl", "--attn")
    assert run(*command, "soft")[0] == 0
    code, out, err = run(*command, "soft,performer", "--resume")
    assert code == 0
    assert asked == ["soft", "performer"]
    assert "1 of 2 tasks are in x.jsonl" in err
    assert out.count("[999, 1,008]") + out.count("1,000 [") >= 2
    run(*command, "soft", "--resume", "--head-dim", "32")
    assert asked == ["soft", "performer", "soft"]


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(run: Run, fake: Callable[..., list[str]]) -> None:
    def stopping(pair: Pair, tokens: int) -> float:
        if pair.attention.attention == "performer":
            os.kill(os.getpid(), signal.SIGINT)
        return falling(pair, tokens)

    fake(stopping)
    command = ("crossover", "--quantities", "flops", "--mode", "forward", "--attn", "soft,performer,linformer")
    code, _, err = run(*command, "--out", "x.jsonl")
    assert code == 130
    assert "1 of 3 tasks are done and kept in x.jsonl" in err
    assert {r.attention for r in records.read("x.jsonl")[0]} == {"soft"}
    asked = fake(falling)
    assert run(*command, "--out", "x.jsonl", "--resume")[0] == 0
    assert asked == ["performer", "linformer"]


def test_what_the_budget_cut_short_is_reported_and_runs_again(run: Run, fake: Callable[..., list[str]]) -> None:
    clock = itertools.count(0.0, 0.5)
    fake(falling)
    command = ("crossover", "--quantities", "flops", "--mode", "forward", "--out", "x.jsonl", "--attn",
               "soft,performer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning.time, "perf_counter", lambda: next(clock))
        code, out, _ = run(*command, "--budget", "8")
    assert code == 0
    assert "the budget ended the search" in out
    found, _ = records.read("x.jsonl")
    assert all(r.detail[records.UNFINISHED] for r in found if r.quantity == "crossover")
    asked = fake(falling)
    _, out, _ = run(*command, "--resume")
    assert asked == ["soft", "performer"]
    assert "budget" not in out


def test_the_budget_is_shared_fairly(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(planning.time, "perf_counter", lambda: now[0])
    budget = planning._Budget(60.0, [1.0, 1.0, 1.0])
    assert budget.begin(0) == pytest.approx(120)
    now[0] = 102.0  # what the first left over is shared by the others
    assert budget.begin(1) == pytest.approx(102 + 58 / 2)
    now[0] = 131.0
    assert budget.begin(2) == pytest.approx(160)
    now[0] = 170.0
    assert budget.begin(2) <= 170


def test_tasks_that_the_budget_left_nothing_for_are_not_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0.0, 100.0)
    monkeypatch.setattr(planning.time, "perf_counter", lambda: next(clock))
    code, out, _ = run("crossover", "--quantities", "flops", "--mode", "forward", "--attn", "soft", "--budget", "1",
                       "--out", "x.jsonl")
    assert code != 0
    assert "not run" in out
    assert "the budget of 1 s was over" in " ".join(out.split())


def test_an_attention_that_fails_does_not_stop_the_others(run: Run, fake: Callable[..., list[str]]) -> None:
    def breaking(pair: Pair, tokens: int) -> float:
        if pair.attention.attention == "performer":
            raise Stopped("attention", "failed", "the output is not finite")
        return falling(pair, tokens)

    fake(breaking)
    command = ("crossover", "--quantities", "flops", "--mode", "forward", "--out", "x.jsonl", "--attn")
    code, out, _ = run(*command, "performer,soft")
    assert code == 5
    assert "failed" in out
    assert "the output is not finite" in out
    assert "[999, 1,008]" in out or "1,000 [" in out
    code, out, err = run(*command, "performer", "--plot", "x.png")
    assert code == 5
    assert "Traceback" not in err


@pytest.mark.parametrize(("arguments", "message"), [
    (["--baseline", "none"], "crossover needs a baseline to overtake: name one, as in --baseline softmax."),
    (["--baseline", ""], "crossover needs a baseline"),
    (["--baseline", "sofmax"], "Did you mean 'softmax'?"),
    (["--baseline", "softmax,gaussian"], "--baseline must be one attention, not 'softmax,gaussian'."),
    (["--attn", "soft,softmax"], "--attn: 'softmax' is the baseline. Leave it out."),
    (["--attn", "soft,soft:landmarks=49"], "'soft:landmarks=49' is the same attention as 'soft'. Leave it out."),
    (["--attn", "soft,soft"], "'soft' is named twice"),
    (["--attn", "sotf"], "Did you mean 'soft'?"),
    (["--attn", "soft:impl=fast"], "no such implementation"),
    (["--min-tokens", "256", "--max-tokens", "256"], "are both 256, and one length has no crossing"),
    (["--min-tokens", "1k", "--max-tokens", "256"], "--min-tokens 1,024 is above --max-tokens 256. Swap them."),
    (["--min-tokens", "many"], "--min-tokens: 'many' is not a positive whole number"),
    (["--budget", "0"], "budget must be at least 1, not 0.0."),
    (["--budget", "-3"], "budget must be at least 1"),
    (["--budget", "soon"], "budget must be a finite number"),
    (["--quantities", "latency,flop"], "Did you mean 'flops'?"),
    (["--mode", "trainin"], "Did you mean"),
    (["--dtype", "float31"], "Did you mean 'float32'?"),
    (["--head-dim", "0"], "--head-dim must be at least 1"),
    (["--device", "tpu"], "No device named 'tpu'"),
    (["--rounds", "20"], "--rounds 20 is above --max-rounds 16. Raise --max-rounds."),
    (["--processes", "0"], "processes must be at least 1"),
    (["--scan", "1"], "scan must be at least 2"),
    (["--max-round", "3"], "No such option"),
], ids=lambda value: "_".join(value) if isinstance(value, list) else "")
def test_mistakes_are_told_in_one_line(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run("crossover", *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) <= 3
    assert not Path("results").exists()
