"""Times the calls of workloads: warms all, renews their inputs, and takes samples in turns, on a CPU or a GPU."""

from __future__ import annotations

import gc
import itertools
import math
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter  # its own: code that is timed may put another into `time`
from typing import Any

import torch

from softbench.contracts.measure import Reading
from softbench.errors import SoftbenchError
from softbench.machine import cpu_share, device
from softbench.measures.latency.settings import Settings
from softbench.measures.latency.work import unavoidable
from softbench.processes import state
from softbench.stats import median
from softbench.subjects import witness
from softbench.subjects.witness import Witness
from softbench.subjects.workload import Workload, WrongResult

FEWEST_SAMPLES = 3
_FEWEST_CALLS = 4
_BURST, _MOST_SAMPLES = 50, 200  # on a GPU: calls queued at once, samples of a slice
_RETRIES = 8  # calls on new values, where the first took suspiciously long
_MOST_BYTES = {device.CPU: 1e12, device.GPU: 1e14}  # a second, of a thread or a GPU, caches included: none comes near
_SLOW = 0.05  # seconds a call: from here on, one more warming call per slice would cost more than it helps


@dataclass
class _Run:
    """A workload under measurement."""

    workload: Workload
    calls: int = 1
    call_seconds: float = 0.0
    spent: float = 0.0
    fault: str = ""
    samples: list[float] = field(default_factory=list)
    per_round: list[int] = field(default_factory=list)
    foreign: list[float] = field(default_factory=list)
    ticks: cpu_share.Ticks = cpu_share.ZERO
    clocks: list[int] = field(default_factory=list)
    host: list[float] = field(default_factory=list)

    @property
    def witness(self) -> Witness | None:
        """None for what a study times that is no workload of a subject."""
        return witness.of(self.workload)


def measure_group(workloads: Sequence[Workload], settings: Settings) -> list[list[Reading]]:
    """Return the latency of each workload, interleaved over rounds."""
    runs = [_Run(workload) for workload in workloads]
    group = secrets.token_hex(6) if len(runs) > 1 else None
    for run in runs:
        _watched(run, _warm, settings)
    for run in runs:
        _watched(run, _renew)
    with _no_garbage_collection():
        for number in range(settings.rounds):
            turn = number % len(runs)
            for run in runs[turn:] + runs[:turn]:
                if run.spent < settings.rep / 1e3 or len(run.samples) < FEWEST_SAMPLES:
                    _watched(run, _slice, settings.rep / 1e3 / settings.rounds)
        for run in runs:
            while len(run.samples) < FEWEST_SAMPLES and not run.fault:
                _watched(run, _slice, 0.0)
    for run in runs:
        _watched(run, _close)
    return [[_reading(run, group)] for run in runs]


def paired(base: Workload, head: Workload,
           settings: Settings) -> Generator[tuple[list[float], list[float], float], None, None]:
    """Rounds of two workloads, without end: the samples of each, and the share of the CPU that others had meanwhile.

    A round is ABBA: one side takes samples, the other for twice as long, the first again, so that a steady drift hits
    both alike; the side that begins alternates. `rep` is the ms of each side in a round. Close the generator after use.
    """
    runs = [_Run(base), _Run(head)]
    for run in runs:
        _watched(run, _warm, settings)
        _watched(run, _renew)
        _earned(run)
    with _no_garbage_collection():
        for number in itertools.count():
            one, other = runs if number % 2 == 0 else runs[::-1]
            for run in runs:
                run.samples, run.foreign = [], []
            for run, share in ((one, 0.5), (other, 1.0), (one, 0.5)):
                _watched(run, _slice, share * settings.rep / 1e3)
                _earned(run)
            foreign = [share for run in runs for share in run.foreign]
            yield runs[0].samples, runs[1].samples, max(foreign, default=0.0)


class Unearned(SoftbenchError):
    """A workload of a pair is not what it must be, so that the pair has no times."""

    def __init__(self, workload: Workload, fault: str) -> None:
        super().__init__(fault)
        self.workload = workload


def _earned(run: _Run) -> None:
    if run.fault:
        raise Unearned(run.workload, run.fault)


def _watched(run: _Run, action: Callable[..., None], *arguments: Any) -> None:
    """Do something of one run; what is wrong with it or with the state that it leaves is its fault, not the others'."""
    if run.fault:
        return
    try:
        with state.guarded():
            action(run, *arguments)
    except (WrongResult, state.Disturbed) as error:
        run.fault = str(error)


def _warm(run: _Run, settings: Settings) -> None:
    """Untimed calls, at least four unless they are slow; fixes the number of calls in a sample.

    Four, because a heap that keeps freed memory only settles after a few calls.
    """
    started = perf_counter()
    for count in itertools.count(1):
        if count == 1 and run.witness:
            run.call_seconds = run.witness.first()
        else:
            run.call_seconds = _timed_calls(run.workload, 1)[0]
        enough = count >= _FEWEST_CALLS or run.call_seconds > _SLOW
        if enough and perf_counter() - started >= settings.warmup / 1e3:
            break
    if not device.is_gpu(run.workload.device):
        run.call_seconds = min(run.call_seconds, _timed_calls(run.workload, 1)[0])
        run.calls = max(1, math.ceil(settings.block / 1e3 / max(run.call_seconds, 1e-9)))


def _renew(run: _Run) -> None:
    """Put other values into the inputs, on which all samples are then taken, and look at the first call on them."""
    if run.witness is None:
        return
    run.witness.turn()
    if run.call_seconds >= _SLOW and run.witness.comparable:
        return  # its first sample shows it too
    with run.witness.seeded():
        once, result = _timed_calls(run.workload, 1)
    run.witness.see(result, seeded=True)
    new, old = [once], [run.call_seconds]
    while witness.slower(new, old) and len(new) < _RETRIES:
        run.witness.shift(len(new))
        new.append(_timed_calls(run.workload, 1)[0])
        old.append(_timed_calls(run.workload, 1)[0])
    if witness.slower(new, old):
        raise WrongResult(f"it keeps results: a call on values it has not seen takes {min(new) / median(old):.0f}"
                          " times as long as one on those of the call before")
    run.witness.put_back()


def _close(run: _Run) -> None:
    """Put the first values back, on which a call must give what it gave then."""
    if run.witness and run.witness.turned:
        run.witness.turn()
        if run.call_seconds < _SLOW:
            run.witness.see(_timed_calls(run.workload, 1)[1])


def _slice(run: _Run, seconds: float) -> None:
    """One round's samples of one workload: at least one, and as many as fit in the given time."""
    if run.call_seconds < _SLOW:
        _timed_calls(run.workload, 1)  # the caches hold another workload's data
    before = cpu_share.now()
    sampled = _gpu_samples if device.is_gpu(run.workload.device) else _cpu_samples
    samples = sampled(run, seconds)
    after = cpu_share.now()
    if before and after:
        run.ticks += after - before
        run.foreign.append(round((after - before).foreign_share, 4))
    run.samples += samples
    run.spent += sum(samples) * run.calls
    run.per_round.append(len(samples))


def _cpu_samples(run: _Run, seconds: float) -> list[float]:
    samples: list[float] = []
    result = None
    while not samples or sum(samples) * run.calls < seconds:
        del result  # of one block, before the next begins
        elapsed, result = _timed_calls(run.workload, run.calls)
        samples.append(elapsed)
    if run.witness:
        run.witness.see(result)
    return samples


def _timed_calls(workload: Workload, calls: int) -> tuple[float, Any]:
    """Seconds of a call, from a block of them, and what the last gave. What `prepare` does is left out of the time."""
    prepare, run, wait = workload.prepare, workload.run, device.waiter(workload.device)
    if workload.case.mode != "backward":
        started = perf_counter()
        for _ in range(calls - 1):
            run(None)
        result = run(None)
        wait()
        return (perf_counter() - started) / calls, result
    total, result = 0.0, None
    for _ in range(calls):
        result = None
        state = prepare()
        wait()
        started = perf_counter()
        result = run(state)
        wait()
        total += perf_counter() - started
        del state  # the graph of one call, before the next is built
    return total / calls, result


def _gpu_samples(run: _Run, seconds: float) -> list[float]:
    """One event pair a call; the device works through the queue before any event is read.

    Where the host takes longer to issue a call than the device to run it, the time between the events is the host's;
    the record tells both (`host_seconds`).
    """
    where = run.workload.device
    prepare, call = run.workload.prepare, run.workload.run
    samples: list[float] = []
    result, glanced = None, None
    started = perf_counter()
    with device.current(where):
        flush = device.flusher(where)
        while not samples or (perf_counter() - started < seconds and len(samples) < _MOST_SAMPLES):
            events, host = [], 0.0
            for _ in range(max(1, min(_BURST, math.ceil(seconds / max(run.call_seconds, 1e-6))))):
                result = None
                state = prepare()
                flush.zero_()
                start, end = device.events()
                start.record()
                issued = perf_counter()
                result = call(state)
                host += perf_counter() - issued
                end.record()
                del state  # the graph of one call, before the next is built
                events.append((start, end))
            glanced = run.witness.glance(result) if run.witness else None  # before another stream can go on
            device.synchronize(where)
            samples += [device.between(start, end) for start, end in events]
            run.host.append(host / len(events))
            if (clock := device.clock(where)) is not None:
                run.clocks.append(clock)
    if run.witness:
        run.witness.see(result, glanced)
    return samples


def _reading(run: _Run, group: str | None) -> Reading:
    detail: dict[str, Any] = {
        "calls_per_sample": run.calls,
        "samples_per_round": run.per_round,
    }
    if work := unavoidable(run.workload):
        detail["work"] = work
    if group:  # round i of all that share it was taken in turn
        detail["group"] = group
    share = round(run.ticks.foreign_share, 4) if run.foreign else None
    if run.host:  # a GPU: other processes on the host do not make its time doubtful
        detail |= {"foreign_cpu_of_host": share, "host_seconds": run.host, "sm_clock_mhz": run.clocks}
    else:
        detail |= {"foreign_cpu": share, "foreign_cpu_per_round": run.foreign}
    if fault := run.fault or _impossible(run, work):
        return Reading("latency", "s", [], status="failed", note=fault)
    return Reading("latency", "s", run.samples, note=run.witness.remark if run.witness else "", detail=detail)


def _impossible(run: _Run, work: dict[str, float]) -> str:
    """Why no machine can have done the work in that time; "" where one may have."""
    seconds = median(run.samples) if run.samples else None
    gpu = device.is_gpu(run.workload.device)
    most = _MOST_BYTES[device.GPU] if gpu else _MOST_BYTES[device.CPU] * torch.get_num_threads()
    if not work or not seconds or work["bytes"] <= most * seconds:
        return ""
    return (f"a call takes {seconds:.1g} s, in which no machine reads its inputs and writes its output, together"
            f" {work['bytes']:,.0f} B: they cannot have been computed")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
