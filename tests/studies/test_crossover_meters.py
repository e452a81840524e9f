"""What the search compares by: the side that is ahead, what stops a comparison, and what is measured twice."""

from __future__ import annotations

import json
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import plugin_files
import pytest
import torch
from studies.fake_costs import Fake, power

from softbench.bench import isolate
from softbench.bench.sweep import Sweep
from softbench.case import AttentionSpec, Case, Shape
from softbench.contracts import attention as attentions
from softbench.measures import latency, memory
from softbench.studies._over_n.grids import Grids
from softbench.studies.crossover import again, meters
from softbench.studies.crossover import answer as answers
from softbench.studies.crossover.meters import Pair, meter
from softbench.studies.crossover.search import ATTENTION, BASELINE, Search, Stopped, Terms
from softbench.subjects import OneAttention, workload


def subject(name: str, **options: object) -> OneAttention:
    spec = AttentionSpec(name, dict(options))
    return OneAttention(attentions.load(spec), spec)


def pair(attention: OneAttention | None = None) -> Pair:
    ours = attention or subject("performer", features=4)
    case = Case(ours.spec, Shape(1, 1, 1, 1, 8))
    return Pair(ours, subject("softmax"), case, latency.Settings(rep=1.0, warmup=0.0))


def difference(quantity: str, both: Pair, grid: tuple[int, int] = (4, 4)) -> float:
    with closing(meter(quantity, both).rounds(grid, 60.0)) as rounds:
        return next(rounds)


def test_latency_is_that_of_the_attention_over_that_of_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"softmax": 1.0, "performer": 3.0}

    def rounds(base, head, settings):  # type: ignore[no-untyped-def]
        yield [seconds[base.subject.attention]], [seconds[head.subject.attention]] * 3, 0.25

    monkeypatch.setattr(meters, "paired", rounds)
    both = pair()
    assert difference("latency", both) == pytest.approx(math.log(3))
    assert both.foreign == {16: 0.25}


def test_a_further_process_measures_the_same_grids_and_its_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    both, asked = pair(), []
    real = isolate.ask

    def ask(module, request, *more):  # type: ignore[no-untyped-def]
        asked.append(request)
        return real(module, request, *more)

    monkeypatch.setattr(isolate, "ask", ask)
    found = meter("latency", both).again([(4, 4), (6, 8)], 3, 60.0)
    assert [len(differences) for differences in found] == [3, 3]
    assert all(math.isfinite(d) for differences in found for d in differences)
    assert sorted(both.foreign) == [16, 48]
    (request,) = asked
    assert [[one["case"]["spec"]["name"] for one in two] for two in request["pairs"]] == [["performer", "softmax"]] * 2
    assert request["pairs"][0][0]["options"]["features"] == 4
    assert request["process"]["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(("plugin", "said"), [("loud", ""), ("killed", "SIGKILL"), ("exits", "3")])
def test_a_further_process_with_a_file_of_one_s_own(tmp_path: Path, plugin: str, said: str) -> None:
    """What it prints is no answer, and what ends its process does not end the comparison."""
    latencies = meter("latency", pair(subject(plugin_files.write(tmp_path, plugin))))
    if not said:
        assert [len(found) for found in latencies.again([(4, 4), (4, 8)], 2, 60.0)] == [2, 2]
        return
    with pytest.raises(Stopped) as stopped:
        latencies.again([(4, 4), (4, 8)], 2, 60.0)
    assert said in stopped.value.note


def test_a_child_that_ends_early_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolate, "ask", lambda *request: [json.dumps({"differences": [0.1], "foreign": 0.0})])
    with pytest.raises(Stopped, match="ended after 1 of 2 lengths"):
        meter("latency", pair()).again([(4, 4), (4, 8)], 1, 60.0)


def test_a_further_process_compares_the_attention_with_the_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"softmax": 1.0, "performer": 3.0}

    def rounds(base, head, settings):  # type: ignore[no-untyped-def]
        while True:
            yield [seconds[base.subject.attention]], [seconds[head.subject.attention]], 0.25

    monkeypatch.setattr(again, "paired", rounds)
    jobs = [pair().job(side, (4, 4)) for side in (ATTENTION, BASELINE)]
    asked = {"timing": {"rep": 1.0}, "rounds": 2, "pairs": [[isolate.packed(job.case, job.subject) for job in jobs]]}
    (answer,) = again._answers(json.loads(json.dumps(asked)))
    assert answer == {"differences": [pytest.approx(math.log(3))] * 2, "foreign": 0.25}


@pytest.mark.parametrize(("answer", "expected"), [
    ([json.dumps({"side": BASELINE, "status": "oom", "note": "none left"})], (BASELINE, "oom", "none left")),
    (("timeout", "no result within 2 s"), (ATTENTION, "timeout", "no result within 2 s"))])
def test_a_further_process_that_gives_nothing(monkeypatch: pytest.MonkeyPatch, answer: object,
                                              expected: tuple[str, str, str]) -> None:
    monkeypatch.setattr(isolate, "ask", lambda *request: answer)
    with pytest.raises(Stopped) as stopped:
        meter("latency", pair()).again([(4, 4)], 2, 60.0)
    assert (stopped.value.side, stopped.value.status, stopped.value.note) == expected


def test_what_fails_in_a_further_process_says_on_which_side(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(case, subject):  # type: ignore[no-untyped-def]
        raise MemoryError("none left")

    monkeypatch.setattr(workload, "build", build)
    jobs = [pair().job(side, (4, 4)) for side in (ATTENTION, BASELINE)]
    asked = {"timing": {}, "rounds": 2, "pairs": 2 * [[isolate.packed(job.case, job.subject) for job in jobs]]}
    assert list(again._answers(asked)) == [{"side": ATTENTION, "status": "oom", "note": "none left"}]


def test_flops_are_the_closed_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    both = pair()
    ours, theirs = (both.job(side, (4, 4)) for side in (ATTENTION, BASELINE))
    expected = ours.subject.closed_form(ours.case) / theirs.subject.closed_form(theirs.case)
    assert difference("flops", both) == pytest.approx(math.log(expected))
    monkeypatch.setattr(both.attention, "closed_form", lambda case: 0.0)
    assert -math.inf < difference("flops", both) < 0  # no product at all: a logarithm all the same


def test_the_baseline_s_memory_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = memory.measure

    def counting(built, settings):  # type: ignore[no-untyped-def]
        asked.append(built.subject.attention)
        return real(built, settings)

    monkeypatch.setattr(memory, "measure", counting)
    first = pair()
    difference("memory", first)
    difference("memory", replace(pair(), known=first.known))
    assert asked == ["performer", "softmax", "performer"]


@pytest.mark.parametrize(("side", "name"), [(ATTENTION, "performer"), (BASELINE, "softmax")])
@pytest.mark.parametrize("quantity", ["latency", "memory"])
def test_who_runs_out_of_memory_is_known(monkeypatch: pytest.MonkeyPatch, side: str, name: str, quantity: str) -> None:
    real = Sweep.prepare

    def prepare(self, job):  # type: ignore[no-untyped-def]
        if job.subject.attention == name:
            raise MemoryError("not run: it needs about 9 GiB, 2 GiB are free")
        return real(self, job)

    monkeypatch.setattr(Sweep, "prepare", prepare)
    with pytest.raises(Stopped) as stopped:
        difference(quantity, pair())
    assert (stopped.value.side, stopped.value.status) == (side, "oom")
    assert "9 GiB" in stopped.value.note


@pytest.mark.parametrize(("processes", "quantity", "told"), [(1, "latency", True), (2, "latency", False),
                                                             (1, "flops", False)])
def test_an_interval_of_one_process_is_told(processes: int, quantity: str, told: bool) -> None:
    fake = Fake(power(1e-6, 1), power(1e-9, 2), 0.02)
    found = Search(fake, Grids(64, 16384), Terms(processes=processes), lambda: 9.0).run()
    answer = answers.findings(found, pair(), quantity, "softmax")[0]
    assert ("of one process" in answer.note) is told


def test_an_attention_that_no_shape_suits_is_unsupported_with_its_reason() -> None:
    """What the whole study says of a length at which an attention cannot run."""
    both = pair()
    search = Search(meter("flops", both), Grids(16, 64, lambda grid: "too odd"), Terms(), lambda: 9.0).run()
    (only,) = answers.findings(search, both, "flops", "softmax")
    assert (only.status, only.value, only.detail["answer"]) == ("unsupported", None, "unsupported")
    assert "no grid from 16 to 64 tokens suits both" in only.note
