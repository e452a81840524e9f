"""Ending: SIGTERM ends a gate as Ctrl-C does, so that no child process and no laid-out revision stays behind."""

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

    By itself SIGTERM would end this process alone, and what it started would run on.
    """
    if threading.current_thread() is not threading.main_thread():  # Python allows no handlers there
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    raise Terminated("Ended by SIGTERM before all was measured.")
