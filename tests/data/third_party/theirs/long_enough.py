"""Long-enough: from how many tokens on a call is worth its start, as far as a clock can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Finding, Task
from softbench.options import option
from softbench.records.views import Dots, Rows, View

QUANTITIES = (
    Quantity("worth_from", "1", "derived", "less"),  # a length, which follows from times
    Quantity("start", "s", "time", "less"),
    Quantity("steps", "1", "exact", "less", counts="steps"),
)
SECTION = Section("Worth its start")
GATED = True  # for its exact part
CHOICES = ("ways",)
QUICK: Mapping[str, Any] = {"ways": "warm"}
VIEWS: tuple[View, ...] = (
    Rows(name="answers", title="The shortest length that is worth it", by=("way",),
         quantities=("worth_from", "start", "steps"), words={"worth_from": "worth from"}),
    Dots(name="lengths", title="Lengths that are worth it", quantity="worth_from", y="way"),
)


@dataclass(frozen=True)
class Settings:
    ways: str = option("warm,cold", "how a call begins")


def tasks(settings: Settings) -> list[Task]:
    """One for each way."""
    return [Task(way, partial(_run, way)) for way in settings.ways.split(",")]


def _run(way: str) -> list[Finding]:
    about: Any = {"coords": {"way": way}}
    return [Finding(quantity="worth_from", value=700.0 if way == "warm" else 900.0, **about),
            Finding(quantity="start", unit="s", samples=[2e-3, 2.1e-3], **about),
            Finding(quantity="steps", value=3.0, **about)]
