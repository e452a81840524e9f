"""Ending: SIGTERM and SIGHUP end a gate as Ctrl-C does: no child process and no laid-out revision stays behind."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from softbench.processes.stopping import Terminated


@contextmanager
def in_order() -> Iterator[None]:
    """Raise Terminated at SIGTERM, from the beginning of a `with` block (or of the function it decorates) to its end.

    By itself the signal would end this process before it could clear up. So does SIGHUP, unless `nohup` ignores it.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
        yield
        return
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise Terminated(f"Ended by {signal.Signals(number).name} before all was measured.")
