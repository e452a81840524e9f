"""The contract of a measure file.

A measure file `softbench/measures/<name>.py` defines

- a docstring whose first line says what it is;
- `QUANTITY`, `UNIT` (one of `softbench.records.UNITS`): what a plain list of samples is;
- `BETTER`: "lower" or "higher";
- `DETERMINISTIC`: True where two runs on any two machines must agree;
- `Settings`: a frozen dataclass of `softbench.options.option` fields; each becomes a flag of the command;
- `measure(workload, settings) -> list[float] | list[Reading]`; it neither prints nor saves;
- optionally `measure_group(workloads, settings) -> list[list[Reading]]`, for a measure that interleaves workloads;
- optionally `measure_case(case, subject, settings)`, used instead of `measure` where nothing need be built or run;
- optionally `VIEWS`: pictures that `softbench plot --view` draws of its records besides the one that all measures have;
- optionally `MODES`: the modes that it can measure (default: all), the first being its default.

Measures import torch inside their functions, so that `softbench <measure> --help` answers without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from softbench import plugins
from softbench.records import Reading as Reading

REQUIRED = ("QUANTITY", "UNIT", "BETTER", "DETERMINISTIC", "Settings", "measure")


def load(name: str) -> ModuleType:
    """The measure plugin of that name."""
    return plugins.load("measures", name, REQUIRED)


def readings(module: ModuleType, measured: Sequence[float] | Sequence[Reading]) -> list[Reading]:
    """What `measure` returned, as readings: plain samples, or none, are of the module's own quantity and unit."""
    plain = [m for m in measured if not isinstance(m, Reading)]
    if plain or not measured:
        return [Reading(module.QUANTITY, module.UNIT, [float(m) for m in plain])]
    return [m for m in measured if isinstance(m, Reading)]
