"""Stopping in order: a signal ends what can be done again at once, and waits for what belongs together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

from softbench.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Terminated(Interrupted):
    """SIGTERM, after a checkpoint was written."""

    exit_code = 143


class HungUp(Interrupted):
    """SIGHUP, as a closed terminal sends it, after a checkpoint was written."""

    exit_code = 129


class Asked(BaseException):
    """A signal asked to stop, raised wherever it arrived. No Exception, as readers of images swallow those."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class Stop:
    """Knows whether a signal asked this process to stop, from the beginning of a `with` block to its end.

    A second Ctrl-C is obeyed at once, whatever is going on.

    Args:
        at_once: raise `Asked` where the signal arrives, be it in a reader that hangs. Several processes agree on
            stopping after a step instead, and look at `signal`.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.signal, self.at_once = 0, at_once
        self._before: dict[int, Any] = {}
        self._held, self._process = 0, os.getpid()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            for number in SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put off what a signal asks for to the end of a block whose parts belong together."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self._obey()

    def hold(self) -> None:
        """From now on only note signals: all is done but to say so."""
        self.at_once = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if os.getpid() == self._process:  # not a child that has just been forked
            self._obey()

    def _obey(self) -> None:
        if self.signal and self.at_once and not self._held:
            self.at_once = False
            raise Asked(self.signal)

    @staticmethod
    def error(number: int, message: str) -> Interrupted:
        """Make the exception to raise for a signal."""
        kinds: dict[int, type[Interrupted]] = {signal.SIGTERM: Terminated, signal.SIGHUP: HungUp}
        return kinds.get(number, Interrupted)(message)
