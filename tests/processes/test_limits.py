"""Time limits within a process: they come back where the code swallows them, and are gone when the block is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from softbench.processes import limits
from softbench.processes.limits import deadline


def forever(first: Callable[[], object] = lambda: None) -> None:
    first()
    while True:
        time.sleep(0.001)


def test_what_is_in_time_is_let_alone_and_the_alarm_is_given_back() -> None:
    before, threads = signal.getsignal(signal.SIGALRM), threading.active_count()
    with deadline(60.0):
        assert signal.getsignal(signal.SIGALRM) is not before
    with deadline(None):
        assert signal.getsignal(signal.SIGALRM) is before
    assert (signal.getsignal(signal.SIGALRM), threading.active_count()) == (before, threads)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("seconds", [1e-6, 1e-4, 1e-2, 0.2])
def test_nothing_comes_after_the_block(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """However the end of the time and of the block fall together."""
    monkeypatch.setattr(limits, "_AGAIN_SECONDS", 0.001)
    for _ in range(20):
        with pytest.raises(TimeoutError, match="no result within"), deadline(seconds):
            forever()
        time.sleep(0.003)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def swallow(times: int) -> None:
    for _ in range(times):
        with contextlib.suppress(BaseException):
            forever()


def reset() -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    swallow(1)


def block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    swallow(1)


@pytest.mark.parametrize("resist", [lambda: swallow(3), reset, block])
def test_it_is_raised_again_where_code_resists(monkeypatch: pytest.MonkeyPatch, resist: Callable[[], None]) -> None:
    monkeypatch.setattr(limits, "_AGAIN_SECONDS", 0.02)
    try:
        with pytest.raises(TimeoutError, match=r"no result within 0\.05 s"), deadline(0.05):
            forever(resist)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


def test_it_holds_in_another_thread() -> None:
    found: list[BaseException] = []

    def run() -> None:
        try:
            with deadline(0.05):
                forever()
        except TimeoutError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30.0)
    assert str(found[0]) == "no result within 0.05 s"


def test_who_set_the_limit_is_told_where_there_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(limits, "_GRACE_SECONDS", 0.1)
    told = threading.Event()

    def until_told() -> None:
        while not told.is_set():
            with contextlib.suppress(BaseException):
                time.sleep(0.001)

    with pytest.raises(TimeoutError), deadline(0.05, told.set):
        forever(until_told)


_AFTER = """
import contextlib, signal, sys, time
from softbench.processes.limits import deadline

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM] if len(sys.argv) > 1 else [])
with contextlib.suppress(TimeoutError), deadline(0.05):
    end = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 0)
    while time.monotonic() < end:
        pass
sys.setprofile(lambda *_: None)
(lambda: print("on"))()
"""


@pytest.mark.parametrize("arguments", [(), ("5",)], ids=["in_time", "raised_in_a_thread"])
def test_functions_can_be_profiled_after_the_block(arguments: tuple[str, ...]) -> None:
    """Python 3.11 enters no function under a profiler for as long as it looks for an exception that was taken back."""
    done = subprocess.run([sys.executable, "-c", _AFTER, *arguments], capture_output=True, text=True, timeout=60,
                          check=False, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")


def test_what_waits_to_be_raised_at_the_end_is_met_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is over just as the block ends: the exception of the thread comes before the block is left, or never."""
    def raised_late(self: limits._Limit) -> None:
        with self._lock:
            self._raised = True
        self.over.wait()

    monkeypatch.setattr(limits._Limit, "_watch", raised_late)
    with deadline(60.0):
        time.sleep(0.01)
    time.sleep(0.01)  # raises what was still on its way
