"""Budgets: `16GiB` and `50ms` as numbers, each with its unit, and what they allow."""

from __future__ import annotations

from dataclasses import dataclass

from softbench import parsing
from softbench.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """Bounds what one call may take; None is no bound. The texts are as they were given."""

    memory: int | None
    latency: float | None
    memory_text: str = ""
    latency_text: str = ""

    @property
    def coords(self) -> dict[str, str]:
        """The coordinates that tell records of different budgets apart."""
        texts = {"memory_budget": self.memory_text, "latency_budget": self.latency_text}
        return {name: text for name, text in texts.items() if text}


def parse(memory: str, latency: str) -> Budget:
    """The budget. Raises UsageError where there is none, or one is not an amount."""
    memory, latency = memory.strip(), latency.strip()
    if not memory and not latency:
        raise UsageError("There is no budget: give --memory 16GiB, --latency 50ms, or both.")
    return Budget(parsing.memory(memory, "--memory") if memory else None,
                  parsing.seconds(latency, "--latency") if latency else None, memory, latency)
