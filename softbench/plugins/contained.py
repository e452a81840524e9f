"""Contained: whatever a plugin raises comes out as an Exception, and Ctrl-C ends the run whatever a plugin makes of it.

A plugin may raise SystemExit, KeyboardInterrupt or a BaseException of its own, which nobody expects who catches
Exception. A KeyboardInterrupt is the user's only where SIGINT came; one that the plugin swallowed is raised again.
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from softbench.errors import SoftbenchError, text

_pressed = threading.Event()


class Raised(SoftbenchError):
    """A plugin raised what is no Exception; the message names its class."""


@contextmanager
def contained() -> Iterator[None]:
    """Code of a plugin runs in this block, which nothing may leave by `yield`.

    Raises:
        KeyboardInterrupt: SIGINT came during the block. Raised: the block raised what is no Exception.
    """
    outermost = _listen()
    try:
        yield
    except Exception:
        if _pressed.is_set():
            raise KeyboardInterrupt from None
        raise
    except BaseException as error:
        if _pressed.is_set() or (isinstance(error, KeyboardInterrupt) and not _listening()):
            raise KeyboardInterrupt from None
        traceback.clear_frames(error.__traceback__)  # which hold tensors
        raise Raised(f"{type(error).__name__}: {text(error)}".removesuffix(": ")) from None
    else:
        if _pressed.is_set():
            raise KeyboardInterrupt
    finally:
        if outermost and signal.getsignal(signal.SIGINT) is _note:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _listen() -> bool:
    """Note SIGINT from now on; whether that was Python's own to hear until now."""
    own = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    if own:
        _pressed.clear()
        signal.signal(signal.SIGINT, _note)
    return own


def _listening() -> bool:
    """True where a KeyboardInterrupt can only be a plugin's where no SIGINT was noted."""
    return threading.current_thread() is not threading.main_thread() or (
        signal.getsignal(signal.SIGINT) in (_note, signal.SIG_IGN))


def _note(number: int, frame: FrameType | None) -> None:
    _pressed.set()
    raise KeyboardInterrupt
