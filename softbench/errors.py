"""Errors that a user can act on: every class here is printed in one line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SoftbenchError(Exception):
    """Base of all expected failures. `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(SoftbenchError):
    """The request itself is wrong: an unknown name, a bad value, a key that does not exist."""

    exit_code = 2


class ResultsError(SoftbenchError):
    """A result file that cannot be read or written."""


class PluginError(SoftbenchError):
    """A plugin module that cannot be imported or does not keep its contract."""

    exit_code = 2


class Interrupted(SoftbenchError):
    """Ctrl-C, after what was done has been kept; the message says how to go on."""

    exit_code = 130


class Unsupported(SoftbenchError):
    """This case cannot run here (dtype, device, implementation, shape); a sweep turns it into a row."""


def text(error: BaseException) -> str:
    """Let an exception say what it is; one of a plugin may fail even at that."""
    try:
        return str(error)
    except BaseException as another:
        return f"no text, as its __str__ raised {type(another).__name__}"


def unknown(kind: str, name: str, valid: Iterable[str], error: type[SoftbenchError] = UsageError) -> SoftbenchError:
    """The error for a name that does not exist: "No attention named 'sofmax'. Did you mean 'softmax'?" """
    names = sorted(valid)
    return error(f"No {kind} named '{name}'. " + hint(name, names, f"Valid: {', '.join(names) or 'none'}."))


def hint(name: str, valid: Iterable[str], otherwise: str, prefix: str = "") -> str:
    """Say what to type next: the valid name nearest to `name`, as `prefix` makes it whole, or `otherwise`."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    return f"Did you mean '{prefix}{close[0]}'?" if close else otherwise
