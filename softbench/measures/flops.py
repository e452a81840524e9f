"""flops: the three-way audit of one forward call: closed form, torch's counter, fvcore.

    flops_closed_form   the attention's own cost(shape).flops; of a pyramid, the sum over its layers
    flops_torch         torch.utils.flop_counter.FlopCounterMode
    flops_fvcore        2 x fvcore's FlopCountAnalysis, which counts a multiply-add once

FLOP = 2 x multiply-add, of matrix products, convolutions and factorisations; all else counts as zero
(`_flops_convention`). An operator that a counter cannot see is supplied with a formula, and named in the row's note,
or makes the reading `failed`. Readings that exist must agree within AGREEMENT; where they do not, each is `failed`
and its note gives the numbers. One case is let off: an attention's oracle, the last of several implementations, may
do other products than cost() describes, and its closed form is then `unsupported`, as it
is for models of timm. Of a model, the number of its parameters stands beside the counts.

Counting needs shapes, not numbers, so the module and its inputs are put on torch's meta device and any size costs
next to nothing; a module whose Python code asks for values needs `tensors=real`. Only the forward is audited: fvcore
does not trace a backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from softbench.contracts.measure import Reading
from softbench.contracts.quantities import Quantity, Section
from softbench.errors import SoftbenchError, Unsupported, text
from softbench.options import option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from softbench.case import Case
    from softbench.measures._flops_counters import Count
    from softbench.subjects.workload import Subject, Workload

QUANTITIES = (
    Quantity("flops_torch", "flop", "exact", "less", headline="operations of one call, counted independently.",
             title="Operations of one call (2 FLOP a multiply-add)", column="torch", per_image=True, audit="flops"),
    Quantity("flops_closed_form", "flop", "exact", "less", column="closed form", order=-1, per_image=True,
             audit="flops"),
    Quantity("flops_fvcore", "flop", "exact", "less", column="fvcore", per_image=True, audit="flops"),
    Quantity("parameters", "1", "exact", counts="parameters", order=-2, drawn=False),
)
SECTION = Section("Operations", place=7)
GATED = ("attention", "model")
MODES = ("forward",)

AGREEMENT = 0.01  # the largest relative distance between two readings of one case


@dataclass(frozen=True)
class Settings:
    tensors: Literal["meta", "real"] = option("meta", "What the counters run on: shapes only (meta), or the inputs.")


def measure(workload: Workload, settings: Settings) -> list[Reading]:
    """The readings of a workload, as `measure_case` gives them of a case."""
    from torch import nn

    module, tensors = workload.module, workload.inputs
    if settings.tensors == "meta" and workload.device.type != "meta":
        assert workload.subject is not None
        return measure_case(workload.case, workload.subject, settings)

    class Call(nn.Module):
        """The workload as a module that takes tensors alone, as fvcore wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *inputs: Tensor) -> Tensor:
            return workload.call(*inputs)

    return _audit(workload, Call(), tensors, settings)


def measure_case(case: Case, subject: Subject, settings: Settings) -> list[Reading]:
    """The readings of a case, without building its inputs unless the settings ask for real ones.

    Raises:
        Unsupported: this subject, implementation, dtype and device do not go together.
    """
    from softbench.subjects import workload

    return measure(workload.build(case, subject, on="meta" if settings.tensors == "meta" else None), settings)


def _audit(workload: Workload, module: nn.Module, inputs: tuple[Tensor, ...], settings: Settings) -> list[Reading]:
    from softbench.measures import _flops_counters as counters

    def closed_form() -> Count:
        if workload.subject is None:
            raise Unsupported("there is no formula")
        return counters.Count(workload.subject.closed_form(workload.case), {}, [], [])

    readings = [
        _reading("flops_closed_form", closed_form, settings),
        _reading("flops_torch", lambda: counters.by_torch(module, inputs), settings),
        _reading("flops_fvcore", lambda: counters.by_fvcore(module, inputs), settings),
    ]
    impls = workload.subject.impls if workload.subject else ()
    judged = _judged(readings, oracle=len(impls) > 1 and workload.case.impl == impls[-1], impl=workload.case.impl)
    return [*judged, *_parameters(workload)]


def _parameters(workload: Workload) -> list[Reading]:
    """How many parameters a model has; of an attention alone they are not worth a column."""
    count = sum(p.numel() for p in workload.module.parameters())
    return [Reading("parameters", "1", [float(count)])] if workload.subject and workload.subject.model else []


def _reading(quantity: str, count: Callable[[], Count], settings: Settings) -> Reading:
    """The count as a reading; whatever goes wrong while counting fails this reading alone."""
    try:
        counted = count()
    except Unsupported as error:
        return Reading(quantity, "flop", [], status="unsupported", note=str(error))
    except SoftbenchError as error:
        return Reading(quantity, "flop", [], status="failed", note=str(error))
    except Exception as error:
        reason = f"{type(error).__name__}: {text(error).partition(chr(10))[0][:200]}"
        hint = "; try tensors=real" if settings.tensors == "meta" and quantity != "flops_closed_form" else ""
        return Reading(quantity, "flop", [], status="failed", note=f"cannot count: {reason}{hint}")
    remarks = ([f"supplied {', '.join(counted.supplied)}"] if counted.supplied else []) + counted.remarks
    note = f"{_counter(quantity)}: {'; '.join(remarks)}" if remarks else ""
    detail = {"gmac": counted.flops / 2e9, "operators": counted.operators, "supplied": counted.supplied,
              "tensors": settings.tensors}
    return Reading(quantity, "flop", [counted.flops], note=note, detail=detail)


def _judged(readings: list[Reading], oracle: bool, impl: str) -> list[Reading]:
    """The readings, failed where those that exist disagree, and with a remark where they agree only nearly.

    Args:
        oracle: whether `impl` is the last of several implementations, which cost() need not describe.
    """
    counts = {r.quantity: r.samples[0] for r in readings if r.samples}
    spread = _spread(list(counts.values()))
    if spread < 1e-9:
        return readings
    numbers = ", ".join(f"{_counter(q)} {n:,.0f}" for q, n in counts.items()) + " flop"
    closed, *counters = readings
    both = [c.samples[0] for c in counters if c.samples]
    if spread > AGREEMENT and oracle and len(both) == 2 and _spread(both) <= AGREEMENT:
        why = f"cost() does not describe '{impl}', the oracle, which does other products ({numbers})"
        return [replace(closed, samples=[], status="unsupported", note=why), *counters]
    status, limit = ("ok", "") if spread <= AGREEMENT else ("failed", f", more than {AGREEMENT:.0%}")
    why = f"the counts differ by {spread:.2%}{limit}: {numbers}"
    return [replace(r, status=status, note="; ".join(filter(None, [r.note, why]))) if r.samples else r
            for r in readings]


def _spread(counts: list[float]) -> float:
    """The relative distance between the largest and the smallest count."""
    if not counts or max(counts) == min(counts):
        return 0.0
    return max(counts) / min(counts) - 1 if min(counts) > 0 else math.inf


def _counter(quantity: str) -> str:
    return quantity.removeprefix("flops_").replace("_", " ")
