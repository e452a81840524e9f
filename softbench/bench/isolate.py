"""One child process a case: what it allocates, breaks or hangs on ends with it.

The parent sends a job as JSON on standard input; the child answers with a line `ready`, one record a line, and `done`.
A child that ends without that last word, even with 0, gave no result.
A memory limit counts what the child holds beyond an idle, torch-loaded process (Linux: RLIMIT_DATA). Under a limit
malloc must be left at its default: a heap that keeps freed memory has holes, and would reach the limit before the
tensors do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from softbench import options, plugins, subjects
from softbench.bench.programme import Step
from softbench.bench.sweep import Job, Sweep, import_whole
from softbench.case import AttentionSpec, Case, ModelSpec, Shape, Spec
from softbench.config import Process
from softbench.contracts import measure as measures
from softbench.errors import SoftbenchError
from softbench.processes import child, setup
from softbench.processes.child import Child
from softbench.records import Record, from_json
from softbench.subjects.workload import Subject

_START_SECONDS = 120.0
_READY, _DONE = "ready\n", "done\n"
_SPECS: dict[str, type[Spec]] = {kind.__name__: kind for kind in (AttentionSpec, ModelSpec)}


@dataclass(frozen=True)
class Isolated(Sweep):
    """A sweep with each job in a child process of its own; cases are then not interleaved.

    Attributes:
        process: how a child is set up.
        memory_limit: bytes that a child may hold; a case that needs more becomes a row `oom`.
    """

    process: Process = field(default_factory=Process, kw_only=True)
    memory_limit: int | None = field(default=None, kw_only=True)

    def steps(self, before: list[Record]) -> Iterator[Step]:
        """A step is one case."""
        return (Step(str(job.case), 1, partial(self._run_child, job)) for job in self.jobs)

    def request(self, job: Job) -> dict[str, Any]:
        """Say all that a child must know, as plain JSON values."""
        return {
            **packed(job.case, job.subject), "measure": self.name, "settings": options.to_dict(self.settings),
            "process": options.to_dict(self.process), "environment": self.environment, "timeout": self.timeout,
            "memory_limit": self.memory_limit, "check_convergence": self.check_convergence,
        }

    def _run_child(self, job: Job) -> list[Record]:
        answer = ask("softbench.bench.isolate", self.request(job), self.timeout, self.memory_limit)
        if isinstance(answer, list):
            return [from_json(line) for line in answer]
        return self._records(job, [self.unread(*answer)])


def ask(module: str, request: dict[str, Any], timeout: float | None, memory_limit: int | None,
        started: Callable[[Child], None] = lambda child: None) -> list[str] | tuple[str, str]:
    """Run `python -m module` on a request; the lines that it answers after `ready`, or why it gave none.

    Args:
        timeout: seconds from `ready` on.
        memory_limit: what the child was given; some ways to die then mean that memory ran out.
        started: gets the child, for who may have to end it early.
    Returns:
        The lines of a child that said it was done; a status and a note of any other, however it ended.
    """
    with child.started("-m", module, environment=_child_environment()) as asking:
        started(asking)
        assert asking.process.stdout is not None
        with asking.within(_START_SECONDS):
            _write(asking, request)
            ready = asking.process.stdout.readline() == _READY
        if not ready:
            return asking.post_mortem(_START_SECONDS, memory_limit)
        lines: list[str] = []
        with asking.within(timeout):
            for line in asking.process.stdout:
                if line == _DONE:
                    return lines
                lines.append(line.rstrip("\n"))
            return asking.post_mortem(timeout, memory_limit)


def _write(asking: Child, request: dict[str, Any]) -> None:
    stream = asking.process.stdin
    assert stream is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended already, and is asked below why
        stream.write(json.dumps(request))
        stream.close()


def _child_environment() -> dict[str, str]:
    """This environment, with this softbench importable whatever the working directory is."""
    home = Path(__file__).resolve().parents[2]
    if home.name in ("site-packages", "dist-packages"):  # on the path anyway, and behind Python's own modules
        return dict(os.environ)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH")]))}


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
    return request, setup.apply(options.parse(Process, request["process"], "process"))


@contextlib.contextmanager
def answering() -> Iterator[Callable[[str], None]]:
    """In the child: say `ready`, take answers, say `done`, and end this process.

    It ends at once: neither threads that a plugin left running nor its exit handlers hold up an answer that is given.
    """
    out = setup.private_stdout()
    print(_READY, end="", file=out, flush=True)
    code = 1
    try:
        yield lambda line: print(line, file=out, flush=True)
        print(_DONE, end="", file=out, flush=True)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def packed(case: Case, subject: Subject) -> dict[str, Any]:
    """A case as plain JSON values, for a child process."""
    return {"case": asdict(case), "kind": type(case.spec).__name__, "options": subject.options}


def unpacked(request: dict[str, Any]) -> tuple[Case, Subject]:
    """Undo `packed`."""
    data = request["case"]
    spec = _SPECS[request["kind"]](**data.pop("spec"))
    case = Case(spec, Shape(**data.pop("shape")), **data)
    return case, subjects.load(replace(spec, options=request["options"]))


def _child(request: dict[str, Any], state: dict[str, Any]) -> list[Record]:
    module, jobs = measures.load(request["measure"]), [Job(*unpacked(request))]
    settings = options.parse(module.Settings, request["settings"], request["measure"])
    environment = request["environment"] | state | {"plugins": plugins.codes()}  # of the files as they are by now
    sweep = Sweep(request["measure"], module, settings, jobs, request["timeout"], request["check_convergence"],
                  environment=environment)
    return [record for _, group in sweep for record in group]


def main() -> None:
    """Entry of the child process."""
    request, state = asked()
    if request["timeout"] is not None:
        import_whole()
    if request["memory_limit"]:
        limit_memory(request["memory_limit"])
    with answering() as answer:
        for record in _child(request, state):
            answer(record.to_json())


if __name__ == "__main__":
    main()
