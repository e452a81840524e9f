"""One child process a case: what it allocates, breaks or hangs on ends with it.

The parent sends a job as JSON on standard input; the child answers with a line `ready` and then one record a line.
A memory limit counts what the child holds beyond an idle, torch-loaded process (Linux: RLIMIT_DATA). Under a limit
malloc must be left at its default: a heap that keeps freed memory has holes, and would reach the limit before the
tensors do.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

from softbench import options as opts
from softbench import plugins
from softbench.bench.sweep import Job, Sweep, make_record
from softbench.case import AttentionSpec, Case, ModelSpec, Shape, Spec
from softbench.config import Process
from softbench.contracts.measure import Reading
from softbench.errors import SoftbenchError
from softbench.processes import setup
from softbench.records import Record

_START_SECONDS = 120.0
_SPECS: dict[str, type[Spec]] = {kind.__name__: kind for kind in (AttentionSpec, ModelSpec)}


def isolated(sweep: Sweep, settings: Process, memory_limit: int | None) -> Iterator[tuple[int, list[Record]]]:
    """The sweep, with each job in a child process of its own; cases are then not interleaved.

    Args:
        memory_limit: bytes that a child may hold; a case that needs more becomes a row `oom`.
    """
    for job in sweep.jobs:
        sweep.on_start(job.case)
        yield 1, _run_child(sweep, job, settings, memory_limit)


def request(sweep: Sweep, job: Job, settings: Process, memory_limit: int | None) -> dict[str, Any]:
    """What a child is told, as plain JSON values."""
    return {
        "measure": sweep.measure_name, "settings": opts.to_dict(sweep.settings), "case": asdict(job.case),
        "kind": type(job.case.spec).__name__, "options": job.subject.options, "process": opts.to_dict(settings),
        "environment": sweep.environment, "timeout": sweep.timeout, "memory_limit": memory_limit,
        "check_convergence": sweep.check_convergence,
    }


def _run_child(sweep: Sweep, job: Job, settings: Process, memory_limit: int | None) -> list[Record]:
    asked = request(sweep, job, settings, memory_limit)
    answer = ask("softbench.bench.isolate", asked, sweep.timeout, memory_limit)
    if isinstance(answer, list):
        return [Record(**json.loads(line)) for line in answer]
    status, note = answer
    reading = Reading(sweep.measure.QUANTITY, sweep.measure.UNIT, [], status=status, note=note)
    return [make_record(sweep.measure_name, job, reading, sweep.environment)]


def ask(module: str, asked: dict[str, Any], timeout: float | None,
        memory_limit: int | None) -> list[str] | tuple[str, str]:
    """Run `python -m module` on a request; the lines that it answers after `ready`, or why it gave none.

    Args:
        timeout: seconds from `ready` on.
        memory_limit: what the child was told; some ways to die then mean that memory ran out.
    Returns:
        The lines of a child that ended well; a status and a note of one that did not.
    """
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen([sys.executable, "-m", module], env=_child_environment(), text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        assert child.stdin is not None
        assert child.stdout is not None
        overdue = threading.Event()
        alarm = _alarm(_START_SECONDS, child, overdue)
        try:
            child.stdin.write(json.dumps(asked))
            child.stdin.close()
            started = child.stdout.readline() == "ready\n"
            alarm.cancel()
            if started and timeout is not None:
                alarm = _alarm(timeout, child, overdue)
            lines = child.stdout.read().splitlines()
            child.wait()
        except BrokenPipeError:
            lines = []
            child.wait()
        finally:
            alarm.cancel()
            if child.poll() is None:
                child.kill()
                child.wait()
            child.stdout.close()
        if child.returncode == 0:
            return lines
        errors.seek(0)
        return _post_mortem(child.returncode, errors.read(), overdue.is_set(), timeout, memory_limit)


def _child_environment() -> dict[str, str]:
    """This environment, with this softbench importable whatever the working directory is."""
    home = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))}


def _alarm(seconds: float, child: subprocess.Popen[str], overdue: threading.Event) -> threading.Timer:
    def end() -> None:
        overdue.set()
        child.kill()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer


def _post_mortem(code: int, stderr: str, overdue: bool, timeout: float | None,
                 memory_limit: int | None) -> tuple[str, str]:
    """Status and note for a child that gave no records."""
    if overdue:
        return "timeout", f"no result within {timeout or _START_SECONDS:g} s"
    last = next((line for line in reversed(stderr.splitlines()) if line.strip()), "").strip()
    if code >= 0:
        return "failed", f"the child process ended with {code}: {last[:200]}"
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL or (memory_limit and -code in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)):
        return "oom", f"the child process died of {name}, as when memory runs out"
    return "failed", f"the child process died of {name}: {last[:200]}".rstrip(": ")


def limit_memory(limit: int) -> None:
    """Let this process's private writable memory grow by `limit` bytes from here."""
    status = Path("/proc/self/status").read_text()
    held = re.search(r"VmData:\s+(\d+) kB", status)
    if held is None:
        raise SoftbenchError("--memory-limit needs Linux's /proc/self/status.")
    bound = int(held[1]) * 1024 + limit
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))


def asked() -> tuple[dict[str, Any], dict[str, Any]]:
    """In the child: what the parent wrote, and the state of this process, which is set up as that says."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets Ctrl-C too, and ends this process
    request: dict[str, Any] = json.load(sys.stdin)
    return request, setup.apply(opts.parse(Process, request["process"], "process"))


def answers() -> TextIO:
    """In the child: say `ready`, and return where its answers go."""
    out = setup.private_stdout()
    print("ready", file=out, flush=True)
    return out


def _child(request: dict[str, Any], state: dict[str, Any]) -> list[Record]:
    from softbench import subjects
    from softbench.contracts import measure as measures

    data = request["case"]
    spec = _SPECS[request["kind"]](**data.pop("spec"))
    case = Case(spec=spec, shape=Shape(**data.pop("shape")), **data)
    subject = subjects.load(replace(spec, options=request["options"]))
    module = measures.load(request["measure"])
    settings = opts.parse(module.Settings, request["settings"], request["measure"])
    jobs = [Job(case, subject)]
    environment = request["environment"] | state | {"plugins": plugins.codes()}  # of the files as they are by now
    sweep = Sweep(request["measure"], module, settings, jobs, environment, request["timeout"],
                  request["check_convergence"])
    return [record for _, group in sweep for record in group]


def main() -> None:
    """Entry of the child process."""
    request, state = asked()
    if request["memory_limit"]:
        limit_memory(request["memory_limit"])
    out = answers()
    for record in _child(request, state):
        print(record.to_json(), file=out, flush=True)


if __name__ == "__main__":
    main()
