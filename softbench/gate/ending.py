"""Ending before all is measured: at a signal, or when a budget of seconds is over.

No child process and no laid-out revision stays behind, and what a gate knows by then is kept.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from softbench.errors import Interrupted
from softbench.processes.child import Child
from softbench.processes.stopping import SIGNALS, Stop

_NEVER = 1e7  # seconds: no timer need wait so long, and few can


class Ended(Exception):
    """The gate has ended while a child was at work, whose answer is of no use any more."""


class Ending:
    """When a gate ends, and for what reason.

    In a `with` block SIGTERM, SIGINT and SIGHUP raise where they arrive. Once there is something to lose (`hold`), the
    first of them ends the children at work instead, so that whoever waits for these goes on, and sees that it is over.
    A second one is obeyed at once.

    Args:
        budget: seconds from now on.
        now: a clock in seconds.
    """

    def __init__(self, budget: float = math.inf, now: Callable[[], float] = time.monotonic) -> None:
        self.budget, self.signal = budget, 0
        self._now, self._until = now, now() + budget
        self._held = False
        self._children: list[Child] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows no handlers elsewhere
            handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # as nohup has it
            self._before = {number: signal.signal(number, self._note) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """From now on note a first signal, and let those who wait for children find out."""
        self._held = True

    @property
    def left(self) -> float:
        """Seconds until the budget is over."""
        return max(0.0, self._until - self._now())

    @property
    def over(self) -> bool:
        """True where nothing more is to be measured."""
        return bool(self.signal) or self.left == 0

    @property
    def reason(self) -> str:
        """Why what is open stays so."""
        if self.signal:
            return f"open when {signal.Signals(self.signal).name} came"
        return f"open when the budget of {self.budget:g} s was over"

    @property
    def error(self) -> Interrupted | None:
        """Make the exception to raise for the signal that came."""
        return _error(self.signal) if self.signal else None

    @contextmanager
    def watching(self, child: Child) -> Iterator[None]:
        """A block in which a child is at work: it is killed where the block is not done when all is over."""
        self._children.append(child)
        if self.over:
            child.kill()
        try:
            with child.within(self.left if self.left < _NEVER else None):
                yield
        finally:
            self._children.remove(child)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal or not self._held:
            raise _error(number)
        self.signal = number
        for child in self._children:
            child.kill()


@contextmanager
def in_order() -> Iterator[None]:
    """End at a signal as at any error, in a `with` block or the function it decorates: children and files go first."""
    with Ending():
        yield


def _error(number: int) -> Interrupted:
    return Stop.error(number, f"Ended by {signal.Signals(number).name} before all was measured.")
