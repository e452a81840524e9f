"""Entries: how many numbers one call takes in, and how full its queries are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from softbench.contracts.measure import Reading
from softbench.contracts.quantities import Quantity, Section
from softbench.options import option
from softbench.records.views import Cases, Curves

QUANTITIES = (
    Quantity("entries", "1", "exact", "less", column="numbers", counts="numbers"),
    Quantity("fullness", "1", "derived", "more"),
)
VIEWS = (
    Cases(name="cases", title="entries: numbers that one call takes in."),
    Curves(name="curves", title="Numbers taken in", quantities=("entries",)),
)
SECTION = Section("What goes in", place=0)


@dataclass(frozen=True)
class Settings:
    scale: float = option(1.0, "factor of the fullness", low=0.0, high=10.0)


def measure(workload: Any, settings: Settings) -> list[Reading]:
    """Both quantities of the workload's inputs."""
    q, k, v = workload.inputs[:3]
    full = float((q != 0).double().mean()) * settings.scale
    return [Reading("entries", "1", [float(q.numel() + k.numel() + v.numel())]), Reading("fullness", "1", [full])]
