"""Budgets: `16GiB` and `50ms` as numbers, each with its unit, and what they allow."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from softbench.errors import UsageError
from softbench.processes.setup import parse_bytes

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0}
_DECIMAL = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_LONGEST, _SHORTEST = 86_400.0, 1e-6  # seconds of a call
_LEAST = 1 << 20  # bytes


@dataclass(frozen=True)
class Budget:
    """What one call may take; None is no bound. The texts are as they were given."""

    memory: int | None
    latency: float | None
    memory_text: str = ""
    latency_text: str = ""

    @property
    def coords(self) -> dict[str, str]:
        """What tells records of different budgets apart."""
        said = {"memory_budget": self.memory_text, "latency_budget": self.latency_text}
        return {name: text for name, text in said.items() if text}


def parse(memory: str, latency: str) -> Budget:
    """The budget. Raises UsageError where there is none, or one is not an amount."""
    memory, latency = memory.strip(), latency.strip()
    if not memory and not latency:
        raise UsageError("There is no budget: give --memory 16GiB, --latency 50ms, or both.")
    return Budget(parse_memory(memory) if memory else None, parse_seconds(latency) if latency else None, memory,
                  latency)


def parse_memory(text: str, flag: str = "--memory") -> int:
    """`16GiB`, `512MiB`, or decimal: `2GB`. Raises UsageError for anything else, a number without a unit included."""
    found = re.fullmatch(r"([\d.]+)\s*([kmgt]b)", text.strip().lower())
    try:
        count = int(float(found[1]) * _DECIMAL[found[2]]) if found else parse_bytes(text, flag)
    except (ValueError, OverflowError):
        raise UsageError(f"{flag}: '{text}' is not an amount of memory. Write it as 16GiB, 512MiB or 2GB.") from None
    if re.fullmatch(r"[\d.]+", text.strip()):
        raise UsageError(f"{flag}: '{text}' has no unit. Write it as {text}GiB or {text}MiB.")
    if count < _LEAST:
        raise UsageError(f"{flag} must be at least 1MiB, not {text}.")
    return count


def parse_seconds(text: str) -> float:
    """`50ms`, `1.5s`, `200us`. Raises UsageError for anything else, a number without a unit included."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-zµ]*)", text.strip().lower())
    if found and not found[2]:
        raise UsageError(f"--latency: '{text}' has no unit. Write it as {text}ms or {text}s.")
    if not found or found[2] not in _SECONDS:
        raise UsageError(f"--latency: '{text}' is not a time. Write it as 50ms, 1.5s or 200us.")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if not _SHORTEST <= seconds <= _LONGEST or math.isinf(seconds):
        raise UsageError(f"--latency must be from 1us to 24 hours, not {text}.")
    return seconds
