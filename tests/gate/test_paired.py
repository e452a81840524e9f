"""Paired timing: the order within a round, new processes, verdicts, workers that misbehave; once with real workers."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gate import stub

from softbench import records
from softbench.bench import session
from softbench.bench.sweep import Job
from softbench.compare.verdicts import Terms
from softbench.gate import source as sources
from softbench.gate.paired import Pair, Plan, WorkerFailed, describe
from softbench.gate.source import Source

TERMS = Terms(threshold=0.02)


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    return session.plan(session.default(attn="softmax,soft:landmarks=9:impl=eager", tokens="16", baseline="none",
                                        device="cpu"))


@pytest.fixture
def pair(tmp_path: Path, jobs: list[Job]) -> Callable[..., Pair]:
    """A pair of stubs, whose behaviour and plan may be changed."""
    def make(base: str = "", head: str = "", **plan: Any) -> Pair:
        settings = {"first": 4, "cap": 8, "slice_ms": 10.0} | plan
        return Pair(stub.source(tmp_path, "base", base), stub.source(tmp_path, "head", head),
                    Plan(jobs, {"threads": 1}, **settings))

    return make


def verdicts(pair: Pair) -> dict[str, str]:
    return {row.record.label: row.verdict for row in pair.compare(TERMS).rows}


@pytest.mark.parametrize(("seconds", "verdict"), [(1e-3, "same"), (1.1e-3, "slower"), (0.9e-3, "faster")])
def test_verdicts_of_two_versions(pair: Callable[..., Pair], seconds: float, verdict: str) -> None:
    found = pair(head=f"SECONDS = {seconds}").compare(TERMS)
    assert [row.verdict for row in found.rows] == [verdict, verdict]
    row = found.rows[0]
    assert row.ratio == pytest.approx(seconds / 1e-3, rel=0.02)
    assert row.units == "4 pairs"
    assert row.base is not None
    assert row.head is not None
    assert (row.base.environment["commit"], row.head.environment["commit"]) == ("commit-base", "commit-head")
    assert row.head.detail["samples_per_round"] == [5, 10, 5, 10]


def test_a_round_is_abba_and_the_side_that_begins_alternates(pair: Callable[..., Pair]) -> None:
    made = pair()
    made.measure([0], 2)
    times = [[json.loads(line)["time"] for line in stub.log(side) if "time" in json.loads(line)]
             for side in made.sources]
    assert times == [[0.01, 0.01, 0.02], [0.02, 0.01, 0.01]]
    assert [course.per_round for course in made.courses[0]] == [[10, 5], [5, 10]]


def test_every_round_has_new_processes(pair: Callable[..., Pair]) -> None:
    made = pair()
    made.measure([0, 1], 3)
    assert [stub.started(side) for side in made.sources] == [3, 3]


def test_only_the_first_round_compares_with_float64(pair: Callable[..., Pair]) -> None:
    made = pair()
    made.measure([0, 1], 2)
    probes = [json.loads(line)["prepare"]["probe"] for line in stub.log(made.sources[0]) if "prepare" in line]
    assert probes == [True, True, False, False]


def test_undecided_cases_get_more_rounds_and_decided_ones_do_not(pair: Callable[..., Pair]) -> None:
    noisy = '''
def TIME(case, seconds):
    noise = 0.2 if case["attn"] == "softmax" else 0.001
    return {"samples": [SECONDS * (1 + source.gauss(0, noise))] * 3, "foreign_cpu": None}
'''
    made = pair(base=noisy, head=noisy)
    rows = {row.record.label: row for row in made.compare(TERMS).rows}
    assert (rows["softmax"].verdict, rows["softmax"].units) == ("inconclusive", "8 pairs")
    assert {row.verdict for label, row in rows.items() if label != "softmax"} == {"same"}
    assert made.rounds == 8
    assert sum("prepare" in line and '"soft:' in line for line in stub.log(made.sources[0])) == 4


REFUSE = '''
def PREPARE(case):
    if case["attn"] == "softmax":
        return {"status": "STATUS", "note": "why", "impl": "", "options": {}}
    return {"status": "ok", "note": "", "impl": "eager", "options": {}}
'''


@pytest.mark.parametrize(("side", "status", "verdict"), [
    ("head", "oom", "broken"), ("head", "failed", "broken"), ("base", "oom", "mended"), ("base", "not_run", "new"),
    ("head", "not_run", "broken")])
def test_a_case_that_runs_on_one_side_only(pair: Callable[..., Pair], side: str, status: str, verdict: str) -> None:
    found = verdicts(pair(**{side: REFUSE.replace("STATUS", status)}))
    assert found.pop("softmax") == verdict
    assert set(found.values()) == {"same"}


def test_only_what_can_be_read_back_is_given_as_records(pair: Callable[..., Pair], tmp_path: Path) -> None:
    made = pair(base=REFUSE.replace("STATUS", "oom"))
    made.compare(TERMS)
    for side, statuses in ((0, ["oom", "ok"]), (1, ["ok"])):
        records.append(tmp_path / f"{side}.jsonl", made.records(side))
        whole, problems = records.read(tmp_path / f"{side}.jsonl")
        assert ([record.status for record in whole], problems) == (statuses, [])


def test_a_case_that_breaks_in_a_later_round(pair: Callable[..., Pair]) -> None:
    late = '''
def TIME(case, seconds):
    if count >= 2 and case["attn"] == "softmax":
        return {"samples": [], "status": "oom", "note": "no memory"}
    return {"samples": [SECONDS] * 3, "foreign_cpu": 0.0}
'''
    rows = {row.record.label: row for row in pair(head=late).compare(TERMS).rows}
    assert (rows["softmax"].verdict, rows["softmax"].note) == ("broken", "oom: no memory")


@pytest.mark.parametrize(("behaviour", "words"), [
    ("raise SystemExit('boom')", "ended with 1: boom"),
    ("raise SystemExit(0)", "ended with 0: it said nothing"),
    ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
    ("PROTOCOL = 2", "another version of the gate's protocol"),
    ("REPORTED = '/elsewhere'", "loaded softbench from /elsewhere"),
])
@pytest.mark.parametrize("side", ["base", "head"])
def test_a_worker_that_does_not_come_up_is_a_failure_of_the_tool(pair: Callable[..., Pair], side: str, behaviour: str,
                                                                 words: str) -> None:
    with pytest.raises(WorkerFailed) as raised:
        pair(**{side: behaviour}).compare(TERMS)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1


@pytest.mark.parametrize(("death", "note"), [
    ("os._exit(9)", "failed: the child process ended with 9"),
    ("os._exit(0)", "failed: the child process ended with 0"),
    ("os.kill(os.getpid(), 11)", "failed: the child process died of SIGSEGV"),
    ("os.kill(os.getpid(), 9)", "failed: the child process died of SIGKILL"),
    ("time.sleep(600)", "timeout: no result within 0.3 s"),
])
@pytest.mark.parametrize(("side", "verdict"), [("base", "mended"), ("head", "broken")])
@pytest.mark.parametrize("during", ["PREPARE", "TIME"])
def test_a_case_that_ends_its_worker_is_a_row(pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch, death: str,
                                              note: str, side: str, verdict: str, during: str) -> None:
    monkeypatch.setattr("softbench.gate.paired._GRACE_SECONDS", 0.2)
    code = (f"def {during}(case, seconds=0, usual={during}):\n"
            f"    if case['attn'] == 'softmax': {death}\n"
            "    return usual(case, seconds) if seconds else usual(case)")
    rows = {row.record.label: row for row in pair(**{side: code}, timeout=0.1).compare(TERMS).rows}
    assert rows["softmax"].verdict == verdict
    dead = getattr(rows["softmax"], side)
    assert note in f"{dead.status}: {dead.note}"
    assert {row.verdict for label, row in rows.items() if label != "softmax"} == {"same"}


def test_a_base_without_a_gate_is_told_apart(tmp_path: Path, pair: Callable[..., Pair]) -> None:
    made = pair()
    shutil.rmtree(made.sources[0].root / "softbench" / "gate")
    with pytest.raises(WorkerFailed, match="base is older than the gate"):
        made.compare(TERMS)


@pytest.mark.parametrize("behaviour", ["", "import atexit; atexit.register(time.sleep, 600)"])
def test_no_process_and_no_file_stays_behind(pair: Callable[..., Pair], behaviour: str) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    before, files = children(), len(os.listdir("/proc/self/fd"))
    pair(head=behaviour).measure([0], 1)
    assert children() <= before
    assert len(os.listdir("/proc/self/fd")) == files


def test_a_case_is_described_so_that_it_is_planned_again(jobs: list[Job]) -> None:
    causal = session.plan(session.default(attn="performer,retention", tokens="16", causal=True, device="cpu"))
    assert [job.case.shape.causal for job in causal] == [True] * 3
    assert not any("causal" in describe(job) for job in jobs)  # a word that older versions do not know
    for job in [*jobs, *causal]:
        (again,) = session.plan(session.default(**describe(job)))
        assert again.case == job.case
        assert again.subject.options == job.subject.options


@pytest.mark.quiet
def test_real_workers_on_one_version_agree_and_see_an_injected_slowdown(tmp_path: Path, jobs: list[Job]) -> None:
    """The whole way: the package itself, and a copy whose every call takes five times as long."""
    shutil.copytree(sources.HERE / "softbench", tmp_path / "softbench", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "softbench" / "subjects" / "workload.py").open("a") as file:
        file.write('''

def _slowed(self, _=None, call=Workload._forward):
    import time
    started = time.perf_counter()
    result = call(self)
    end = 5 * time.perf_counter() - 4 * started
    while time.perf_counter() < end:
        pass
    return result


Workload._forward = _slowed
''')
    plan = Plan([replace(jobs[0])], {"threads": 1}, first=2, cap=2, slice_ms=20.0)
    made = Pair(sources.head(), Source(tmp_path.resolve(), "slowed"), plan)
    (differences,) = made.measure([0], 2)
    assert math.exp(statistics.fmean(differences)) > 1.5
    assert [course.ok for course in made.courses[0]] == [True, True]
    assert made.record(0, 1).value is not None
