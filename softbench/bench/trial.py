"""Trials: one case in a child process of its own, to learn whether one call fits into a memory, or how long it takes.

A call holds its inputs, its parameters and all that it allocates, beyond what a process that has run a small case of
the same kind holds anyway. On a CPU the child builds the inputs and then takes, by RLIMIT_DATA, what the limit leaves
beside them; on a GPU the caching allocator gets the limit. What dies of too little memory, dies alone.
"""

from __future__ import annotations

import gc
import json
import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from softbench import options
from softbench.bench import isolate
from softbench.bench.costs import disturbance
from softbench.bench.programme import verdict
from softbench.bench.sweep import seconds_of
from softbench.case import Case
from softbench.config import Process
from softbench.machine import device
from softbench.measures import latency
from softbench.plugins.contained import contained
from softbench.processes import setup, state
from softbench.subjects import workload
from softbench.subjects.workload import Subject, Workload

_CLEARLY = 2.0  # times the time that matters: a call that is slower need not be repeated
_SAFE = 0.9  # share of the free memory that a child may take


@dataclass(frozen=True)
class Trial:
    """Hold what came of it: `status` is "ok", or says why there is no number, as in a record.

    `held` are bytes at the most, inputs and parameters included; `samples` seconds of single calls.
    """

    status: str
    note: str = ""
    held: float | None = None
    samples: list[float] = field(default_factory=list)


def memory(case: Case, subject: Subject, limit: int, timeout: float) -> Trial:
    """One call under a limit of memory in bytes; `oom` where it does not fit."""
    return _ask(case, subject, timeout, replace(setup.current(), malloc="default"), limit=limit)


def seconds(case: Case, subject: Subject, settings: latency.Settings, budget: float, timeout: float) -> Trial:
    """The time of a call as `softbench latency` takes it, with one call alone where that is far beyond the budget."""
    return _ask(case, subject, timeout, setup.current(), settings=options.to_dict(settings), budget=budget)


def free(where: str) -> int | None:
    """Bytes that a child may take on the device now; None where nothing tells."""
    available = device.free(where)
    return available if available is None or device.is_gpu(where) else int(available * _SAFE)


def leave_room(where: str) -> None:
    """In a child on a CPU: take no more than is free, so that this process is the one that ends where memory does."""
    if not device.is_gpu(where) and (safe := free(where)) is not None:
        isolate.limit_memory(safe)


def _ask(case: Case, subject: Subject, timeout: float, process: Process, limit: int | None = None,
         **more: Any) -> Trial:
    request = {**isolate.packed(case, subject), "process": options.to_dict(process), "limit": limit, **more}
    answer = isolate.ask("softbench.bench.trial", request, timeout, limit)
    if isinstance(answer, list):
        return Trial(**json.loads(answer[-1]))
    return Trial(*answer)


def _answer(request: dict[str, Any]) -> Trial:
    """The child's part."""
    case, subject = isolate.unpacked(request)
    try:
        with state.guarded(), contained():
            leave_room(case.device)
            if request["limit"] is None:
                return _timed(workload.build(case, subject), latency.Settings(**request["settings"]), request["budget"])
            return _held(case, subject, request["limit"])
    except Exception as error:
        return Trial(*verdict(error))


def _held(case: Case, subject: Subject, limit: int) -> Trial:
    small, tiny = subject.probed(case)
    seconds_of(workload.build(tiny, small))  # what libraries allocate once is no part of a call
    if device.is_gpu(case.device):
        return _held_on_gpu(case, subject, limit)
    own = _bytes(workload.build(case, subject, on="meta"))
    if own >= limit:
        raise MemoryError(f"inputs and parameters alone take {own:,} B")
    built = workload.build(case, subject)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    isolate.limit_memory(limit - own)
    seconds_of(built)
    return Trial("ok", held=float(own + max(0, _resident("VmHWM") - before)))


def _held_on_gpu(case: Case, subject: Subject, limit: int) -> Trial:
    device.release()
    device.limit_memory(case.device, limit)
    built = workload.build(case, subject)
    device.reset_peak(case.device)
    seconds_of(built)
    return Trial("ok", held=float(device.peak(case.device)))


def _timed(built: Workload, settings: latency.Settings, budget: float) -> Trial:
    fastest = min(seconds_of(built), seconds_of(built))
    if fastest > _CLEARLY * budget:
        return Trial("ok", samples=[fastest])
    reading = latency.measure(built, settings)[0]
    if reading.status != "ok":
        return Trial(reading.status, reading.note)
    return Trial("ok", disturbance(reading.detail), samples=reading.samples)


def _bytes(built: Workload) -> int:
    tensors = [*built.inputs, built.target, *built.module.parameters(), *built.module.buffers()]
    return sum(t.numel() * t.element_size() for t in tensors)


def _resident(entry: str) -> int:
    """Bytes of this process that are in memory now (VmRSS) or were at most (VmHWM)."""
    line = re.search(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert line is not None
    return int(line[1]) * 1024


def main() -> None:
    """Entry of the child process."""
    request, _ = isolate.asked()
    with isolate.answering() as answer:
        answer(json.dumps(asdict(_answer(request))))


if __name__ == "__main__":
    main()
