"""softbench measures efficient attention honestly: latency, memory, FLOPs and accuracy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from softbench import _former
from softbench._version import __version__ as __version__

__all__ = ["create", "load", "measure", "study"]

if TYPE_CHECKING:
    from softbench.api import create, measure, study
    from softbench.records import load

_former.keep()

_HOMES = {"create": "softbench.api", "measure": "softbench.api", "study": "softbench.api",
          "load": "softbench.records"}


def __getattr__(name: str) -> Any:
    """Public names load their module, and with it torch or pandas, only when they are used."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'softbench' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
