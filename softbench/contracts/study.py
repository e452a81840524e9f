"""The contract of a study file.

A study answers a question that takes many different numbers, such as how far an approximation is from the truth. A
file `softbench/studies/<name>.py` (the command is called `<name>` with hyphens) defines

- a docstring whose first line says what it is;
- `QUANTITIES`: what its numbers are (`softbench.contracts.quantities.Quantity`), which comparisons and the page read;
  the first is its headline, which also stands for a task that failed;
- `Settings`: a frozen dataclass of `softbench.options.option` fields; each becomes a flag of the command; one called
  `device` is where the study runs, which is the CPU otherwise;
- `QUICK`: the settings that `--quick` changes;
- `VIEWS`: how its numbers are shown, as data (`softbench.records.views.View`); reports draw them;
- `tasks(settings) -> list[Task]`: the study cut into independent pieces. Everything the settings say is checked here.
- optionally, in `Settings`, `jobs`: how many of its tasks may run side by side, each in a process of its own;
- optionally `CHOICES`: names of settings that only choose which tasks there are, and decide nothing within one;
- optionally `SECTION`: its part of the page (`softbench.contracts.quantities.Section`);
- optionally `GATED`: whether `softbench check` runs it, with `--quick` (default: where the headline is exact or
  seeded);
- optionally `recall(environment, device) -> list[Record]` and `remember(records, environment, device) -> Path`: where a
  study is run once for a machine, what is known of this one, and keeping it. `--force` runs it anew.

A task neither prints nor saves. A resumed study skips a task whose name it finds where all settings but the `CHOICES`
are the same, and what these chose for it.
A study imports torch, and what needs it, within a function, or has it in modules of its folder that a function
imports: `softbench <study> --help` answers without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from softbench.contracts import quantities
from softbench.records import About, Point, Reading

REQUIRED = ("Settings", "QUICK", "VIEWS", "tasks")


@dataclass(frozen=True, kw_only=True)
class Finding(Reading, About, Point):
    """One number of a study, with what it is a number of, as far as that exists.

    A number that was not measured but published has its source in `quoted`; its record then names no machine, and
    `detail["printed"]` is how tables write it.
    """

    quoted: str = ""


@dataclass(frozen=True)
class Task:
    """An independent piece of a study.

    Attributes:
        name: unique in the study.
        at: what the `CHOICES` of the study chose for this task, as plain JSON values, as far as its name does not say
            it in full.
        needs: names of earlier tasks whose records `run` gets; it runs again where one of them has.
        alone: it measures times, so that nothing else may run beside it (`jobs`).
        concludes: it comes after those whose numbers it draws on: `run` gets the records of all tasks before it, those
            that a resumed study found included, and it runs again whenever one of them has.
    """

    name: str
    run: Callable[..., list[Finding]]
    concludes: bool = False
    needs: tuple[str, ...] = ()
    alone: bool = False
    at: Mapping[str, Any] = field(default_factory=dict)


def load(name: str) -> ModuleType:
    """The study plugin of that name."""
    return quantities.load("studies", name, REQUIRED)


def unread(module: ModuleType, status: str, note: str, detail: dict[str, Any]) -> Finding:
    """Make the finding of a task that gave no number."""
    headline: quantities.Quantity = module.QUANTITIES[0]
    return Finding(quantity=headline.name, unit=headline.unit, status=status, note=note, detail=detail)


def gated(module: ModuleType) -> bool:
    """True where `softbench check` runs it."""
    return bool(getattr(module, "GATED", module.QUANTITIES[0].kind in ("exact", "seeded")))
