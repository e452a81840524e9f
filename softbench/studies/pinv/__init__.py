"""pinv: whether the m x m inverse inside SOFT and Nystromformer converges, how fast, and with what gradient.

Each method of softbench/ops/pseudo_inverse inverts P = A + ridge I for families of matrices (`_matrices.py`). Values
are medians over `count` matrices; all of them are the samples. Matrices are stored, and the arithmetic is done, in the
dtype named; the residuals are taken in float64 (`_courses.py`) after `iterations` steps, and their course over
`max_iterations` steps is the trace.

- `part=inverse`: residuals and errors, the steps needed until the larger of ||I - P V|| and ||I - V P||, over sqrt(m),
  is within `tolerance` and stays there (by I - P V alone it is `needed_steps_ipv`), the shares of matrices that are not
  within it after `iterations` steps, that are worse than V = 0 in the end, and that have NaN or infinity in the end;
  with a ridge also the gradient (`_inverse_gradients.py`).
- `part=condition`: the steps needed over the condition number of P and the dtype, on synthetic matrices.
- `part=speed`: times of one call on the stack against the residual reached, and the time to tolerance.
- `part=cost`: times and saved bytes of forward and backward, by the implicit formula and through the steps.
- `part=leak`: how much the inverse of a matrix changes when hostile matrices join its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from softbench import parsing
from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Finding, Task
from softbench.errors import UsageError
from softbench.records.views import Heatmap, Lines, Rows, Scatter, View
from softbench.studies.pinv.settings import PARTS, Settings

_RESIDUALS = ("residual", "residual_ava", "residual_iav", "residual_ipv", "residual_ivp", "error_inverse", "error_pinv",
              "gradient_error", "unrolled_error", "change", "needed_steps", "needed_steps_ipv", "share_diverged",
              "share_not_finite", "share_unconverged")
QUANTITIES = (
    *(Quantity(name, "1", "seeded", "less") for name in _RESIDUALS),
    *(Quantity(f"{name}_cosine", "1", "seeded", "more") for name in ("gradient", "unrolled", "agreement")),
    *(Quantity(name, "s", "time", "less")
      for name in ("time", "time_to_tolerance", "time_forward", "time_implicit", "time_unrolled")),
    *(Quantity(f"saved_{name}", "B", "exact", "less") for name in ("implicit", "unrolled")),
)
SECTION = Section("The inverse of the landmarks' kernel", place=8)

_MOST_RIDGE = 1e6  # of methods that converge with any
QUICK = {"matrices": "normal:1,smooth:0.5,constant,image", "count": 4, "conditions": "10,1000,5000", "rep": 5.0,
         "max_iterations": 40}


_MAIN = ("newton", "nystromformer", "scaled_newton", "cholesky")
_OTHERS = ("newton_ci", "hyperpower", "eigh", "newton_batch", "nystromformer_batch")
_WORDS = {
    "family": "matrices", "tokens": "m", "condition": "condition of P", "mates": "joined by",
    "residual_ava": "AVA-A", "residual_iav": "I-AV", "residual_ipv": "I-PV", "residual": "I-PV,I-VP",
    "error_pinv": "V-A^+", "needed_steps": "steps", "needed_steps_ipv": "by I-PV", "time_to_tolerance": "time",
    "time": "time of a call", "gradient_error": "gradient", "gradient_cosine": "cosine",
    "unrolled_error": "through steps", "unrolled_cosine": "its cosine", "agreement_cosine": "between",
    "time_forward": "forward", "time_implicit": "with gradient", "time_unrolled": "through steps",
    "saved_implicit": "saved", "saved_unrolled": "saved, steps"}
_HATCHED = "Hatched: not within the steps tried, or not to stay."
_LARGER = "I-PV,I-VP is the larger of ||I - P V|| and ||I - V P||, over sqrt(m)."


def _summary(name: str, title: str, methods: tuple[str, ...]) -> Rows:
    return Rows(
        name=name, title=title, words=_WORDS, by=("family", "method"), headings=("family",),
        where={"detail.part": "inverse", "detail.ridged": True, "method": methods},
        quantities=("residual_ava", "residual_ipv", "residual", "needed_steps", "needed_steps_ipv",
                    "time_to_tolerance", "gradient_error"),
        note=f"Medians. A is the matrix, P = A + ridge I, V the result. AVA-A is relative to A. {_LARGER} steps, time:"
             " of one call on the stack, until that is within the tolerance to stay; by I-PV: until this one side is."
             " gradient: relative error of the implicit one against that of the true inverse.")


VIEWS: tuple[View, ...] = (
    _summary("summary", "What the usual inverses reach, with a ridge", _MAIN),
    _summary("others", "What the other inverses reach, with a ridge", _OTHERS),
    Rows(name="gradients", title="Gradient of newton against that of the true inverse, with a ridge", words=_WORDS,
         by=("family",), where={"detail.part": "inverse", "detail.ridged": True, "method": "newton"},
         quantities=("gradient_error", "gradient_cosine", "unrolled_error", "unrolled_cosine", "agreement_cosine"),
         note="Relative error and cosine of the implicit gradient, which SOFT takes, and of autograd through the same"
              " steps. between: the cosine of these two; below 0 they point in opposite directions."),
    Rows(name="cost", title="Forward and backward of one call on the stack", words=_WORDS, by=("method", "steps"),
         where={"detail.part": "cost"},
         quantities=("time_forward", "time_implicit", "time_unrolled", "saved_implicit", "saved_unrolled"),
         note="with gradient: forward and backward by the implicit formula. through steps: by autograd through the"
              " iterations. saved: kept for the backward."),
    Rows(name="leak", title="Change of a matrix's inverse when others join its batch", words=_WORDS,
         by=("method", "mates"), where={"detail.part": "leak"}, quantities=("change",),
         note="The largest relative change over all families. Methods that end in batch take one start for all."),
    Lines(name="courses", title="Three residuals of the same iterations, with a ridge", words=_WORDS, trace=True,
          quantities=("residual_ava", "residual_iav", "residual"), series="method", panels="family", level=1e-3,
          where={"detail.part": "inverse", "detail.ridged": True, "detail.iterative": True},
          note=f"The paper reads AVA-A; only the last says whether V is the inverse of P. {_LARGER}"),
    Lines(name="courses_without_ridge", title="The same iterations without a ridge", words=_WORDS, trace=True,
          quantities=("residual_ava", "residual_iav", "error_pinv"), series="method", panels="family", level=1e-3,
          where={"detail.part": "inverse", "detail.ridged": False, "detail.iterative": True},
          note="V-A^+ is relative to the pseudo-inverse A^+."),
    Heatmap(name="conditions", title="Steps until I-PV and I-VP are both within the tolerance", words=_WORDS,
            quantity="needed_steps", x="condition", y="dtype", panels="method", where={"detail.part": "condition"},
            note=_HATCHED),
    Heatmap(name="families", title="Steps until I-PV and I-VP are both within the tolerance", words=_WORDS,
            quantity="needed_steps", x="ridge", y="family", panels="method",
            where={"detail.part": "inverse", "detail.iterative": True}, note=_HATCHED),
    Scatter(name="pareto", title="Time of a call against the residual reached", words=_WORDS, x="time",
            y="residual", series="method", point="steps", panels="family", where={"detail.part": "speed"},
            note=_LARGER),
)


def tasks(settings: Settings) -> list[Task]:
    """The pieces of the study.

    Raises:
        UsageError: something the settings name does not exist, or is no number.
    """
    from softbench.ops import pseudo_inverse as op
    from softbench.studies.pinv import matrices as _matrices
    from softbench.studies.pinv import parts as run

    methods = parsing.choices(settings.methods.split(","), list(op.METHODS), "method")
    families = list(dict.fromkeys(f.strip() for f in settings.matrices.split(",")))
    for family in families:
        _matrices.check(family)
    most = max(op.METHODS[method].max_ridge for method in methods)
    ridges = _numbers(settings.ridge, "ridge", low=0, high=min(most, _MOST_RIDGE))
    dtypes = parsing.dtypes(settings.dtype)
    wide = parsing.dtypes(settings.condition_dtypes)
    conditions = _numbers(settings.conditions, "conditions", low=1, high=1e15)
    points = parsing.counts(settings.steps, "pinv: steps")
    parts = parsing.choices(settings.parts.split(","), PARTS, "part")
    if settings.iterations > settings.max_iterations:
        raise UsageError(f"pinv: iterations ({settings.iterations}) must be at most max_iterations"
                         f" ({settings.max_iterations}).")
    names = {family: _matrices.identity(family) for family in families}
    main = ridges[0]
    able = [m for m in methods if main <= op.METHODS[m].max_ridge]
    timing = f"ridge={main:g} {dtypes[0]} {','.join(able)} rep={settings.rep:g}"
    pieces: list[tuple[str, Callable[[], list[Finding]]]] = []
    if "inverse" in parts:
        pieces += [(f"inverse {names[family]} ridge={ridge:g} {dtype} {method}",
                    partial(run.inverse, settings, family, ridge, dtype, method))
                   for family in families for ridge in ridges for dtype in dtypes for method in methods]
    if "speed" in parts:
        pieces += [(f"speed {names[family]} {timing} at {settings.steps}",
                    partial(run.speed, settings, family, main, dtypes[0], able, points)) for family in families]
    if "condition" in parts:
        pieces += [(f"condition {settings.conditions} ridge={main:g} {dtype} {method}",
                    partial(run.conditions, settings, conditions, main, dtype, method))
                   for dtype in wide for method in able if op.METHODS[method].products]
    if "cost" in parts:
        pieces.append((f"cost {names[families[0]]} {timing}",
                       partial(run.cost, settings, families[0], main, dtypes[0], able)))
    if "leak" in parts:
        pieces.append((f"leak {','.join(names.values())} {dtypes[0]}",
                       partial(run.leak, settings, families, dtypes[0])))
    same = (f"m={settings.size} d={settings.head_dim} count={settings.count} steps={settings.iterations}"
            f" of {settings.max_iterations} tolerance={settings.tolerance:g} seed={settings.seed}")
    return [Task(f"{name} {same}", piece) for name, piece in pieces]


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
