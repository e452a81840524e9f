"""pinv: whether the m x m inverse inside SOFT and Nystromformer converges, how fast, and with what gradient.

Each method of softbench/ops/pseudo_inverse inverts P = A + ridge I for families of matrices (`matrices.py`). Values
are medians over `count` matrices; all of them are the samples. Matrices are stored, and the arithmetic is done, in the
dtype named; the residuals are taken in float64 (`courses.py`) after `iterations` steps, and their course over
`max_iterations` steps is the trace.

- `part=inverse`: residuals and errors, the steps needed until the larger of ||I - P V|| and ||I - V P||, over sqrt(m),
  is within `tolerance` and stays there (by I - P V alone it is `needed_steps_ipv`), the shares of matrices that are not
  within it after `iterations` steps, that are worse than V = 0 in the end, and that have NaN or infinity in the end;
  with a ridge also the gradient (`gradients.py`).
- `part=condition`: the steps needed over the condition number of P and the dtype, on synthetic matrices.
- `part=speed`: times of one call on the stack against the residual reached, and the time to tolerance.
- `part=cost`: times and saved bytes of forward and backward, by the implicit formula and through the steps.
- `part=leak`: how much the inverse of a matrix changes when hostile matrices join its batch.
"""

from __future__ import annotations

from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Task
from softbench.records.views import Heatmap, Lines, Rows, Scatter, View
from softbench.studies.pinv.settings import Settings

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

CHOICES = ("methods", "matrices", "ridge", "dtype", "conditions", "condition_dtypes", "steps", "rep", "parts")
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
    from softbench.studies.pinv import planning

    return planning.tasks(settings)
