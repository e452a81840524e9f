"""Latency: budgets, interleaving and modes, against workloads whose time is known because they sleep."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import install

from softbench.contracts.measure import load
from softbench.machine import cpu_share
from softbench.measures import latency
from softbench.measures.latency import timing


@dataclass
class Sleeper:
    """Stands for a workload: `run` takes a known time, `prepare` another one."""

    seconds: float
    name: str = "sleeper"
    mode: str = "forward"
    preparing: float = 0.0
    log: list[str] = field(default_factory=list)
    sleep: Callable[[float], None] = time.sleep
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def case(self):
        return SimpleNamespace(mode=self.mode)

    def prepare(self):
        self.sleep(self.preparing)
        return "state"

    def run(self, state):
        assert state == ("state" if self.mode == "backward" else None)
        self.log.append(self.name)
        self.sleep(self.seconds)


def settings(**keys):
    return latency.Settings(**{"rep": 60.0, "warmup": 5.0, "rounds": 5, "block": 2.0, **keys})


@pytest.fixture
def sleep(monkeypatch):
    """Sleeps on a clock of its own, which latency reads too: exact, however busy the machine is."""
    clock = SimpleNamespace(now=0.0)

    def sleep(seconds):
        clock.now += seconds

    monkeypatch.setattr(timing, "perf_counter", lambda: clock.now)
    return sleep


def test_keeps_the_measure_contract():
    assert load("latency") is latency


def test_median_is_the_time_of_one_call(sleep):
    reading = latency.measure(Sleeper(0.004, sleep=sleep), settings())[0]
    assert reading.summary == pytest.approx(0.004)
    assert reading.summary == sorted(reading.samples)[len(reading.samples) // 2] or len(reading.samples) % 2 == 0
    assert reading.detail["calls_per_sample"] == 1
    assert sum(reading.detail["samples_per_round"]) == len(reading.samples)


def test_short_calls_are_timed_in_blocks(sleep):
    reading = latency.measure(Sleeper(0.0002, sleep=sleep), settings(block=2.0))[0]
    assert reading.detail["calls_per_sample"] in (10, 11)  # by rounding
    assert reading.summary == pytest.approx(0.0002)


def test_preparation_is_not_timed(sleep):
    slow_start = Sleeper(0.002, mode="backward", preparing=0.01, sleep=sleep)
    assert latency.measure(slow_start, settings(rep=20))[0].summary == pytest.approx(0.002)


def test_cases_are_interleaved_and_the_order_rotates():
    log: list[str] = []
    group = [Sleeper(0.003, name, log=log) for name in "abc"]
    latency.measure_group(group, settings(rep=9, rounds=3, warmup=0))
    rounds = [name for i, name in enumerate(log) if i == 0 or log[i - 1] != name]
    assert "".join(rounds)[-9:] == "abcbcacab"


def test_each_case_gets_its_own_budget(sleep):
    fast, slow = latency.measure_group([Sleeper(0.001, sleep=sleep), Sleeper(0.02, sleep=sleep)], settings(rep=100))
    assert sum(fast[0].samples) * fast[0].detail["calls_per_sample"] == pytest.approx(0.1, rel=0.1)
    assert 0.099 < sum(slow[0].samples) < 0.121  # within one call


def test_slow_cases_get_three_samples_and_no_more():
    sleeper = Sleeper(0.1)
    reading = latency.measure(sleeper, settings(rep=10, warmup=1, rounds=5))[0]
    assert len(reading.samples) == timing.FEWEST_SAMPLES == 3
    assert len(sleeper.log) <= 6


def test_one_round_still_gives_three_samples():
    assert len(latency.measure(Sleeper(0.03), settings(rep=1, rounds=1))[0].samples) == 3


def test_garbage_collector_rests_only_while_sampling():
    states = []
    sleeper = Sleeper(0.001)
    sleeper.run = lambda state: states.append(gc.isenabled())  # type: ignore[method-assign]
    latency.measure(sleeper, settings(rep=1))
    assert states[-1] is False
    assert gc.isenabled()


@pytest.mark.quiet
def test_foreign_share_counts_others_but_not_us():
    before = cpu_share.now()
    assert before is not None
    busy_until = time.process_time() + 0.4
    while time.process_time() < busy_until:
        pass
    ours = cpu_share.now() - before
    assert ours.own == pytest.approx(0.4, abs=0.08)
    assert ours.everybody >= ours.own - 0.03
    made_up = cpu_share.Ticks(everybody=1.5, own=1.0, wall=1.0)
    assert made_up.foreign_share == pytest.approx(0.49 / len(os.sched_getaffinity(0)))
    assert cpu_share.Ticks(everybody=0.03, own=0.02, wall=0.02).foreign_share == pytest.approx(0.0)  # one tick
    assert cpu_share.Ticks(1.0, 1.2, 1.0).foreign_share == 0.0
    assert cpu_share.ZERO.foreign_share == 0.0


@pytest.mark.quiet
def test_what_no_machine_can_do_is_told():
    run = timing._Run(Sleeper(0.0), samples=[1e-6])  # type: ignore[arg-type]
    assert timing._impossible(run, {"bytes": 1e5}) == ""
    assert "cannot have been computed" in timing._impossible(run, {"bytes": 1e12})


def test_a_stray_process_is_seen():
    """A second process that spins takes one core of this machine, and must show in the record."""
    stray = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.1)
        reading = latency.measure(Sleeper(0.05), settings(rep=400, warmup=0))[0]
    finally:
        stray.kill()
        stray.wait()
    assert reading.detail["foreign_cpu"] > 0.4 / (os.cpu_count() or 1)


def test_on_a_gpu_the_call_alone_stands_between_events_after_the_cache_is_flushed(monkeypatch):
    cuda, where = install(monkeypatch), torch.device("cuda:1")
    workload = SimpleNamespace(device=where, prepare=lambda: cuda.work("prepare", 10.0),
                               run=lambda state: cuda.work("call", 0.25))
    run = timing._Run(workload, call_seconds=1.0)
    samples = timing._gpu_samples(run, 0.0)
    once = ["prepare", "flush", "record cuda:1", "call", "record cuda:1"]
    assert cuda.log == [f"buffer {100 << 20} cuda:1", *once, "synchronize cuda:1", "elapsed", "clock cuda:1"]
    assert (samples, run.clocks, len(run.host)) == ([0.25], [1980], 1)
    cuda.log.clear()
    run.call_seconds = 0.1
    monkeypatch.setattr(timing, "_MOST_SAMPLES", 3)
    assert timing._gpu_samples(run, 0.25) == [0.25] * 3
    assert cuda.log[1:] == [*once * 3, "synchronize cuda:1", *["elapsed"] * 3, "clock cuda:1"]


def test_a_gpus_work_is_waited_for_before_the_clock_is_read(monkeypatch):
    cuda = install(monkeypatch)
    clock = lambda: cuda.log.append("clock") or 0.0  # noqa: E731
    monkeypatch.setattr(timing, "perf_counter", clock)
    workload = SimpleNamespace(device=torch.device("cuda"), prepare=lambda: cuda.log.append("prepare"),
                               run=lambda state: cuda.log.append("call"), case=SimpleNamespace(mode="forward"))
    timing._timed_calls(workload, 2)
    assert cuda.log == ["clock", "call", "call", "synchronize cuda", "clock"]
    cuda.log.clear()
    workload.case.mode = "backward"
    timing._timed_calls(workload, 1)
    assert cuda.log == ["prepare", "synchronize cuda", "clock", "call", "synchronize cuda", "clock"]


def test_a_clock_that_timed_code_stops_is_not_asked(monkeypatch):
    """Warm-up would wait for it for ever."""
    monkeypatch.setattr(time, "perf_counter", lambda: pytest.fail("this clock is anybody's"))
    assert timing._timed_calls(Sleeper(0.001), 2)[0] > 0
