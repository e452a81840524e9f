"""Limits: the time that code may take within this process, even where it swallows exceptions or resets the alarm.

Once the time is over, an exception is raised in the code again and again: by a signal, and where signals are blocked or
handled by others, at the next instruction of Python. Code that neither can reach, such as a C function that does not
return, cannot be ended within its process; then the one who set the limit is told, to end the process in order.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_AGAIN_SECONDS = 1.0  # between two exceptions, in which what the first has met may be cleared up
_GRACE_SECONDS = 5.0


@contextmanager
def deadline(seconds: float | None, stuck: Callable[[], None] | None = None) -> Iterator[None]:
    """Raise TimeoutError in the block once the time is over, as soon as the running operator returns.

    Args:
        stuck: called in another thread where the block has not ended some seconds later.
    """
    if seconds is None:
        yield
        return
    limit = _Limit(seconds, stuck)
    try:
        try:
            limit.begin()
            yield
        finally:
            limit.over.set()  # a signal between these lines raises once more, and the next one finds it over
    except TimeoutError as error:
        error.args = error.args or (limit.message,)
        raise
    finally:
        limit.end()


class _Limit:
    """An alarm and, beside it, a thread that goes on where the alarm does not get through."""

    def __init__(self, seconds: float, stuck: Callable[[], None] | None) -> None:
        self.message = f"no result within {seconds:g} s"
        self.over = threading.Event()
        self._seconds, self._stuck = seconds, stuck
        self._thread = threading.get_ident()
        self._lock, self._raised = threading.Lock(), False
        self._main = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
        self._before = signal.getsignal(signal.SIGALRM)
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def begin(self) -> None:
        """Let the time run."""
        self._watcher.start()
        if self._main:
            signal.signal(signal.SIGALRM, self._expire)
            signal.setitimer(signal.ITIMER_REAL, self._seconds, _AGAIN_SECONDS)

    def end(self) -> None:
        """Raise no more, and give the alarm back."""
        while not self._disarmed():
            pass
        if self._main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before or signal.SIG_DFL)
        if self._watcher.ident is not None:
            self._watcher.join()

    def _disarmed(self) -> bool:
        try:
            with self._lock:
                self.over.set()
                if self._raised:
                    self._raised = False
                    # One may be on its way. Another takes its place and is met here: Python looks at each call for one
                    # that was only taken back, and under a profiler for ever.
                    _raise_in(self._thread)
                    while True:
                        pass
            return True
        except TimeoutError:
            return False

    def _expire(self, number: int, frame: FrameType | None) -> None:
        if not self.over.is_set():
            raise TimeoutError(self.message)

    def _watch(self) -> None:
        """Raise where no signal does, for some seconds; then say that the code cannot be ended."""
        if self.over.wait(self._seconds + (_AGAIN_SECONDS / 2 if self._main else 0)):
            return
        for _ in range(round(_GRACE_SECONDS / _AGAIN_SECONDS)):
            with self._lock:
                if not self.over.is_set():
                    self._raised = True
                    _raise_in(self._thread)
            if self.over.wait(_AGAIN_SECONDS):
                return
        if self._stuck is not None:
            self._stuck()


def _raise_in(thread: int) -> None:
    """Let a thread raise TimeoutError at its next instruction of Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TimeoutError))
