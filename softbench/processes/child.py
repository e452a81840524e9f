"""Children: how every process that measures for this one is started, and how it ends; none outlives who started it.

A child leads a process group of its own, so that what it starts ends with it. Beside it stands a guard, a process that
does nothing but wait: once this process is gone, by whatever signal, it kills the child's group. A child does not look
for modules in the working directory, where a `random.py` of the user's would take the place of Python's own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from softbench.machine import control_groups

_GUARD = """
import os, select, signal, sys
parent, group = int(sys.argv[1]), int(sys.stdin.buffer.readline() or 0)
while os.getppid() == parent and not select.select([0], [], [], 1.0)[0]:
    pass
if group:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
_MEMORY_SIGNALS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)  # how code ends that does not look what malloc gave


@dataclass
class Child:
    """A Python process at work for this one. What it says on standard error is kept until it is asked for."""

    process: subprocess.Popen[str]
    errors: IO[str]
    guard: subprocess.Popen[bytes]
    overdue: threading.Event = field(default_factory=threading.Event)
    killed_before: int | None = field(default_factory=control_groups.kills)

    def kill(self) -> None:
        """End the child and all that it started, now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """Kill the child where the block has not ended after so many seconds."""
        if seconds is None:
            yield
            return
        alarm = threading.Timer(seconds, self._expire)
        alarm.daemon = True
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()

    def post_mortem(self, seconds: float | None, memory_limit: int | None = None) -> tuple[str, str]:
        """Status and note for a child that ended without a result.

        Args:
            seconds: within which the result was due.
            memory_limit: what the child was told; some ways to die then mean that memory ran out.
        """
        code = self.process.wait()
        if self.overdue.is_set():
            return "timeout", f"no result within {seconds:g} s"
        last = self.last_words()[:200]
        if code >= 0:
            return "failed", f"the child process ended with {code} and gave no result: {last}".removesuffix(": ")
        name = signal.Signals(-code).name
        before, now = self.killed_before, control_groups.kills()
        by_kernel = -code == signal.SIGKILL and before is not None and now is not None and now > before
        if by_kernel or (memory_limit and -code in _MEMORY_SIGNALS):
            return "oom", f"the child process died of {name}, as when memory runs out"
        return "failed", f"the child process died of {name}: {last}".removesuffix(": ")

    def last_words(self) -> str:
        """Return the last line on standard error."""
        return next((line for line in reversed(self.said().splitlines()) if line.strip()), "").strip()

    def said(self) -> str:
        """All that was said on standard error."""
        self.errors.seek(0)
        return self.errors.read()

    def end(self) -> None:
        """Let nothing of the child be left: processes, pipes, files."""
        self.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.guard.stdin):
            with contextlib.suppress(OSError):  # what was not written yet, to a reader that has gone
                if stream is not None:
                    stream.close()
        self.guard.kill()
        self.guard.wait()
        self.errors.close()

    def _expire(self) -> None:
        self.overdue.set()
        self.kill()


def start(*arguments: str, environment: Mapping[str, str]) -> Child:
    """Start this Python with these arguments, lines of text for its input and output; `end` it in any case."""
    guard = subprocess.Popen([sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid())], stdin=subprocess.PIPE,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115, it lives as long as the child
    process = subprocess.Popen([sys.executable, "-P", *arguments], env=dict(environment), text=True,
                               start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    assert guard.stdin is not None
    guard.stdin.write(b"%d\n" % process.pid)
    guard.stdin.flush()
    child = Child(process, errors, guard)
    threading.Thread(target=_end_with_its_leader, args=(child,), daemon=True).start()
    return child


@contextlib.contextmanager
def started(*arguments: str, environment: Mapping[str, str]) -> Iterator[Child]:
    """A child that has ended when the block has."""
    child = start(*arguments, environment=environment)
    try:
        yield child
    finally:
        child.end()


def _end_with_its_leader(child: Child) -> None:
    """Kill what a child leaves behind as soon as it ends; it may hold the pipe that this process reads from."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)
    child.kill()
