"""The contract of a measure file.

A measure file `softbench/measures/<name>.py` defines

- a docstring whose first line says what it is;
- `QUANTITIES`: what its numbers are (`softbench.contracts.quantities.Quantity`), which comparisons, gates, tables,
  pictures and the page read; the first is its headline: what a plain list of samples is, and what stands for a case
  that failed;
- `Settings`: a frozen dataclass of `softbench.options.option` fields; each becomes a flag of the command;
- `measure(workload, settings) -> list[float] | list[Reading]`; it neither prints nor saves;
- optionally `measure_group(workloads, settings) -> list[list[Reading]]`, for a measure that interleaves workloads;
- optionally `measure_case(case, subject, settings)`, used instead of `measure` where nothing need be built or run;
- optionally `VIEWS`: how its numbers are shown, as data (`softbench.records.views.View`): its `Cases`, which are its
  table, its `Curves`, which are its picture, and others; without `Cases`, plain ones of both come first;
- optionally `MODES`: the modes that it can measure (default: all), the first being its default;
- optionally `SECTION`: its part of the page (`softbench.contracts.quantities.Section`);
- optionally `GATED`: what `softbench check` runs it on, "attention" and "model" (default: attentions, where the
  headline is exact).

A measure imports torch, and what needs it, within a function, or has it in modules of its folder that a function
imports: `softbench <measure> --help` answers without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType

from softbench.contracts import quantities
from softbench.records import Reading as Reading

REQUIRED = ("Settings", "measure")


def load(name: str) -> ModuleType:
    """The measure plugin of that name."""
    return quantities.load("measures", name, REQUIRED)


def readings(module: ModuleType, measured: Sequence[float] | Sequence[Reading]) -> list[Reading]:
    """Make readings of what `measure` returned: plain samples, or none, are of the module's own quantity and unit."""
    plain = [m for m in measured if not isinstance(m, Reading)]
    if plain or not measured:
        return [replace(unread(module), samples=[float(m) for m in plain])]
    return [m for m in measured if isinstance(m, Reading)]


def unread(module: ModuleType, status: str = "ok", note: str = "") -> Reading:
    """Return the reading of a case that gave no number, of the module's headline."""
    headline: quantities.Quantity = module.QUANTITIES[0]
    return Reading(headline.name, headline.unit, [], status=status, note=note)


def gated(module: ModuleType) -> tuple[str, ...]:
    """Say what `softbench check` runs it on: "attention", "model", both or neither."""
    exact = module.QUANTITIES[0].kind == "exact"
    return tuple(getattr(module, "GATED", ("attention",) if exact else ()))
