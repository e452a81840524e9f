"""Children: they end with who started them, and with them what they started; what is said of how they ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from softbench.machine import control_groups
from softbench.processes import child

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}

# A child that starts a process of its own, says who both are, and then hears nothing.
CHILD = ("import os, signal, subprocess, sys, time\n"
         "for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
         "print(os.getpid(), subprocess.Popen(['sleep', '300']).pid, flush=True)\ntime.sleep(300)")
PARENT = f"""
import signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup makes children ignore
from softbench.processes import child
with child.started("-c", {CHILD!r}, environment=__import__("os").environ) as running:
    print(running.process.stdout.readline(), flush=True)
    sys.stdin.read()
"""


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended may wait for somebody to ask."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_children_and_theirs_end_with_the_parent(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], env=ENVIRONMENT, text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(map(alive, pids))
        parent.send_signal(number)
        assert gone(pids)


@pytest.mark.parametrize("code", ["", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_what_a_child_started_ends_with_it(code: str) -> None:
    """The process that it leaves holds the pipe that this one reads."""
    text = f"import os, time\npid = os.fork()\nif not pid: time.sleep(300)\nprint(pid, flush=True)\n{code}"
    with child.started("-c", text, environment=ENVIRONMENT) as running:
        assert running.process.stdout is not None
        (pid,) = [int(line) for line in running.process.stdout]
    assert gone([pid])


def test_a_child_in_time_is_let_alone_and_one_that_is_late_is_ended() -> None:
    with child.started("-c", "input()", environment=ENVIRONMENT) as running:
        with running.within(60.0):
            running.process.communicate("\n")
        assert (running.process.returncode, running.overdue.is_set()) == (0, False)
    with child.started("-c", "import time\ntime.sleep(300)", environment=ENVIRONMENT) as running:
        with running.within(0.1):
            assert running.process.stdout is not None
            assert running.process.stdout.read() == ""
        assert running.post_mortem(0.1) == ("timeout", "no result within 0.1 s")


@pytest.mark.parametrize(("death", "limit", "kills", "status", "note"), [
    ("pass", None, (0, 0), "failed", "the child process ended with 0 and gave no result"),
    ("sys.exit('no luck')", None, (0, 0), "failed", "the child process ended with 1 and gave no result: no luck"),
    ("os.kill(os.getpid(), 9)", None, (3, 3), "failed", "the child process died of SIGKILL"),
    ("os.kill(os.getpid(), 9)", 1 << 30, (3, 3), "failed", "the child process died of SIGKILL"),
    ("os.kill(os.getpid(), 9)", None, (None, None), "failed", "the child process died of SIGKILL"),
    ("os.kill(os.getpid(), 9)", None, (3, 4), "oom", "the child process died of SIGKILL, as when memory runs out"),
    ("os.kill(os.getpid(), 11)", None, (3, 4), "failed", "the child process died of SIGSEGV"),
    ("os.kill(os.getpid(), 11)", 1 << 30, (3, 3), "oom", "the child process died of SIGSEGV, as when memory runs out"),
    ("os.kill(os.getpid(), 15)", None, (3, 3), "failed", "the child process died of SIGTERM"),
])
def test_post_mortem(monkeypatch: pytest.MonkeyPatch, death: str, limit: int | None, kills: tuple[int | None, ...],
                     status: str, note: str) -> None:
    """The kernel's count before and after is the evidence that it killed for want of memory."""
    started = child.start("-c", f"import os, sys\n{death}", environment=ENVIRONMENT)
    try:
        started.killed_before = kills[0]
        monkeypatch.setattr(control_groups, "kills", lambda: kills[1])
        assert started.post_mortem(1.0, limit) == (status, note)
    finally:
        started.end()


def test_nothing_of_a_child_stays_behind() -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    before, files = children(), len(os.listdir("/proc/self/fd"))
    with child.started("-c", "print(1)", environment=ENVIRONMENT) as running:
        assert running.process.stdout is not None
        assert running.process.stdout.read() == "1\n"
        assert children() > before
    assert children() == before
    assert len(os.listdir("/proc/self/fd")) == files
