"""Stopping in order: SIGTERM and Ctrl-C are noted, and obeyed at the next step; a second Ctrl-C is obeyed at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from softbench.errors import Interrupted


class Terminated(Interrupted):
    """SIGTERM, after a checkpoint was written."""

    exit_code = 143


class Stop:
    """Whether a signal asked this process to stop, from the beginning of a `with` block to its end."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    @staticmethod
    def error(number: int, message: str) -> Interrupted:
        """What to raise for a signal."""
        return Terminated(message) if number == signal.SIGTERM else Interrupted(message)
