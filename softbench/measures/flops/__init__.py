"""flops: the three-way audit of one forward call: closed form, torch's counter, fvcore.

    flops_closed_form   the attention's own cost(shape).flops; of a pyramid, the sum over its layers
    flops_torch         torch.utils.flop_counter.FlopCounterMode
    flops_fvcore        2 x fvcore's FlopCountAnalysis, which counts a multiply-add once

FLOP = 2 x multiply-add, of matrix products, convolutions and factorisations; all else counts as zero
(`convention.py`). An operator that a counter cannot see is supplied with a formula, and named in the row's note,
or makes the reading `failed`. Readings that exist must agree within AGREEMENT; where they do not, each is `failed`
and its note gives the numbers. One case is let off: an attention's oracle, the last of several implementations, may
do other products than cost() describes, and its closed form is then `unsupported`, as it
is for models of timm. Of a model, the number of its parameters stands beside the counts.

Counting needs shapes, not numbers, so the module and its inputs are put on torch's meta device and any size costs
next to nothing; a module whose Python code asks for values needs `tensors=real`. Only the forward is audited: fvcore
does not trace a backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from softbench.contracts.measure import Reading
from softbench.contracts.quantities import Quantity, Section
from softbench.options import option
from softbench.records.views import Cases, Curves

if TYPE_CHECKING:
    from softbench.case import Case
    from softbench.subjects.workload import Subject, Workload

QUANTITIES = (
    Quantity("flops_torch", "flop", "exact", "less", column="torch", per_image=True, audit="flops"),
    Quantity("flops_closed_form", "flop", "exact", "less", column="closed form", per_image=True, audit="flops"),
    Quantity("flops_fvcore", "flop", "exact", "less", column="fvcore", per_image=True, audit="flops"),
    Quantity("parameters", "1", "exact", counts="parameters"),
)
VIEWS = (
    Cases(name="cases", title="flops: operations of one call, counted independently.",
          quantities=("parameters", "flops_closed_form", "flops_torch", "flops_fvcore")),
    Curves(name="curves", title="Operations of one call (2 FLOP a multiply-add)",
           quantities=("flops_closed_form", "flops_torch", "flops_fvcore")),
)
SECTION = Section("Operations", place=7)
GATED = ("attention", "model")
MODES = ("forward",)


@dataclass(frozen=True)
class Settings:
    tensors: Literal["meta", "real"] = option("meta", "What the counters run on: shapes only (meta), or the inputs.")


def measure(workload: Workload, settings: Settings) -> list[Reading]:
    """The readings of a workload, as `measure_case` gives them of a case."""
    from softbench.measures.flops import audit

    return audit.measure(workload, settings.tensors)


def measure_case(case: Case, subject: Subject, settings: Settings) -> list[Reading]:
    """The readings of a case, without building its inputs unless the settings ask for real ones.

    Raises:
        Unsupported: this subject, implementation, dtype and device do not go together.
    """
    from softbench.measures.flops import audit

    return audit.measure_case(case, subject, settings.tensors)
