"""Plans the pieces of pinv: its parts, for each family of matrices, ridge, dtype and method."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from softbench import parsing
from softbench.contracts.study import Finding, Task
from softbench.errors import UsageError
from softbench.ops import pseudo_inverse as op
from softbench.studies.pinv import matrices, parts
from softbench.studies.pinv.settings import PARTS, Settings

_MOST_RIDGE = 1e6  # of methods that converge with any


def tasks(settings: Settings) -> list[Task]:
    """Plan the pieces of the study.

    Raises:
        UsageError: something the settings name does not exist, or is no number.
    """
    methods = parsing.choices(settings.methods.split(","), list(op.METHODS), "method")
    families = list(dict.fromkeys(f.strip() for f in settings.matrices.split(",")))
    for family in families:
        matrices.check(family)
    most = max(op.METHODS[method].max_ridge for method in methods)
    ridges = _numbers(settings.ridge, "ridge", low=0, high=min(most, _MOST_RIDGE))
    dtypes = parsing.dtypes(settings.dtype)
    wide = parsing.dtypes(settings.condition_dtypes)
    conditions = _numbers(settings.conditions, "conditions", low=1, high=1e15)
    points = parsing.counts(settings.steps, "pinv: steps")
    chosen = parsing.choices(settings.parts.split(","), PARTS, "part")
    if settings.iterations > settings.max_iterations:
        raise UsageError(f"pinv: iterations ({settings.iterations}) must be at most max_iterations"
                         f" ({settings.max_iterations}).")
    names = {family: matrices.identity(family) for family in families}
    main = ridges[0]
    able = [m for m in methods if main <= op.METHODS[m].max_ridge]
    timing = f"ridge={main:g} {dtypes[0]} {','.join(able)} rep={settings.rep:g}"
    timed = {"ridge": main, "rep": settings.rep}
    pieces: list[tuple[str, Callable[[], list[Finding]], dict[str, Any]]] = []
    if "inverse" in chosen:
        pieces += [(f"inverse {names[family]} ridge={ridge:g} {dtype} {method}",
                    partial(parts.inverse, settings, family, ridge, dtype, method), {"ridge": ridge})
                   for family in families for ridge in ridges for dtype in dtypes for method in methods]
    if "speed" in chosen:
        pieces += [(f"speed {names[family]} {timing} at {settings.steps}",
                    partial(parts.speed, settings, family, main, dtypes[0], able, points), timed)
                   for family in families]
    if "condition" in chosen:
        pieces += [(f"condition {settings.conditions} ridge={main:g} {dtype} {method}",
                    partial(parts.conditions, settings, conditions, main, dtype, method), {"ridge": main})
                   for dtype in wide for method in able if op.METHODS[method].products]
    if "cost" in chosen:
        pieces.append((f"cost {names[families[0]]} {timing}",
                       partial(parts.cost, settings, families[0], main, dtypes[0], able), timed))
    if "leak" in chosen:
        pieces.append((f"leak {','.join(names.values())} {dtypes[0]}",
                       partial(parts.leak, settings, families, dtypes[0]), {}))
    same = (f"m={settings.size} d={settings.head_dim} count={settings.count} steps={settings.iterations}"
            f" of {settings.max_iterations} tolerance={settings.tolerance:g} seed={settings.seed}")
    return [Task(f"{name} {same}", piece, at=at) for name, piece, at in pieces]


def _numbers(text: str, what: str, *, low: float, high: float) -> list[float]:
    numbers = []
    for item in text.split(","):
        try:
            number = float(item)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise UsageError(f"pinv: {what}: '{item.strip()}' must be a number from {low:g} to {high:g}.")
        numbers.append(number)
    return list(dict.fromkeys(numbers))
