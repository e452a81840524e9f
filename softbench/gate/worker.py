"""The worker: one version of the package in a process of its own, that builds cases and times them when it is told to.

The parent writes one JSON object a line and reads one back. The first says how the process is to be set up; then

    {"prepare": {"sweep": {...}, "attention": {...}, "probe": true}}  ->  {"status": "ok", "note": "", ...}
    {"time": 0.1}                                                   ->  {"samples": [...]}

`prepare` builds the one case that these keys of [sweep] describe and drops the one before; `time` takes samples of it
for so many seconds. A base may be older than the head that drives it, so the lines keep to what both understand.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

import softbench
from softbench import options
from softbench.bench import session
from softbench.bench.programme import verdict
from softbench.bench.sweep import Sweep, resolved_impl
from softbench.config import Config, Process, SweepConfig
from softbench.errors import UsageError
from softbench.machine import environment
from softbench.machine.device import find
from softbench.measures import latency
from softbench.plugins.contained import contained
from softbench.processes import setup, state
from softbench.subjects import workload
from softbench.subjects.workload import Workload

PROTOCOL = 1


def main() -> None:
    """Entry of the worker: answer until the parent closes the line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too, and ends this process
    answers = setup.private_stdout()
    hello = json.loads(sys.stdin.readline())
    settings = options.parse(Process, hello["process"], "process")
    state = setup.apply(settings)
    device = find(hello["device"])
    _answer(answers, {"protocol": PROTOCOL, "root": str(Path(softbench.__file__).resolve().parents[1]),
                      "environment": environment.take(state, device)})
    built: Workload | None = None
    for line in sys.stdin:
        request = json.loads(line)
        if "prepare" in request:
            built = None  # the last case must be gone before the next is built
            built, answer = _prepare(settings, request["prepare"])
        elif built is None:
            answer = {"samples": []}
        else:
            answer = _time(built, request["time"])
        _answer(answers, answer)


def _prepare(settings: Process, request: dict[str, Any]) -> tuple[Workload | None, dict[str, Any]]:
    """The case, and what the parent must know of it; None where it does not run, with the reason."""
    try:
        with contained():
            cases = options.parse(SweepConfig, request["sweep"], "[sweep]")
            config = Config(cases, settings, attention=request["attention"])
            (job,) = session.plan(config, latency.MODES)
            answer = {"status": "ok", "note": "", "impl": resolved_impl(job), "options": job.subject.options}
            if request["probe"]:
                return Sweep("latency", latency, latency.Settings(), [job]).prepare(job), answer
            with state.guarded():
                built = workload.build(job.case, job.subject)
                built.check()
            return built, answer
    except Exception as error:
        status, note = verdict(error)
        status = "not_run" if isinstance(error, UsageError) else status  # a version that does not know this case
        return None, {"status": status, "note": note, "impl": "", "options": {}}


def _time(built: Workload, seconds: float) -> dict[str, Any]:
    try:
        with contained():
            (reading,) = latency.measure(built, latency.Settings(rep=1e3 * seconds, warmup=0.0, rounds=1))
        if reading.status != "ok":
            return {"samples": [], "status": reading.status, "note": reading.note}
        return {"samples": reading.samples, "foreign_cpu": reading.detail.get("foreign_cpu")}
    except Exception as error:
        status, note = verdict(error)
        return {"samples": [], "status": status, "note": note}


def _answer(answers: TextIO, data: dict[str, Any]) -> None:
    print(json.dumps(data), file=answers, flush=True)


if __name__ == "__main__":
    main()
