"""flops: the three-way audit of one forward call: closed form, torch's counter, fvcore.

    flops_closed_form   the attention's own cost(shape).flops
    flops_torch         torch.utils.flop_counter.FlopCounterMode
    flops_fvcore        2 x fvcore's FlopCountAnalysis, which counts a multiply-add once

FLOP = 2 x multiply-add, of matrix products, convolutions and factorisations; all else counts as zero
(`_flops_convention`). An operator that a counter cannot see is supplied with a formula, and named in the row's note,
or makes the reading `failed`. Readings that exist must agree within AGREEMENT; where they do not, each is `failed`
and its note gives the numbers. One case is let off: an attention's oracle, the last of several implementations, may
do other products than cost() describes, and its closed form is then `unsupported`.

Counting needs shapes, not numbers, so the module and its inputs are put on torch's meta device and any size costs
next to nothing; a module whose Python code asks for values needs `tensors=real`. Only the forward is audited: fvcore
does not trace a backward.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from softbench.errors import SoftbenchError
from softbench.measures._contract import Reading
from softbench.options import option

if TYPE_CHECKING:
    from torch import Tensor, nn

    from softbench.attention._contract import Attention
    from softbench.case import Case
    from softbench.measures._flops_counters import Count
    from softbench.workload import Workload

QUANTITY = "flops_torch"
UNIT = "flop"
BETTER = "lower"
DETERMINISTIC = True
MODES = ("forward",)

AGREEMENT = 0.01  # the largest relative distance between two readings of one case


@dataclass(frozen=True)
class Settings:
    tensors: Literal["meta", "real"] = option("meta", "What the counters run on: shapes only (meta), or the inputs.")


def measure(workload: Workload, settings: Settings) -> list[Reading]:
    """The three readings of a workload; see `measure_case`."""
    module, tensors = workload.module, [workload.q, workload.k, workload.v]
    if settings.tensors == "meta":
        module = copy.deepcopy(module).to("meta")
        tensors = [t.detach().to("meta") for t in tensors]
    return _audit(workload.case, workload.attention, module, tensors, settings)


def measure_case(case: Case, attention: Attention, settings: Settings) -> list[Reading]:
    """The three readings of a case, without building its inputs unless the settings ask for real ones.

    Raises:
        Unsupported: this attention, implementation, dtype and device do not go together.
    """
    import torch

    from softbench import workload

    if settings.tensors == "real":
        return measure(workload.build(case, attention), settings)
    dtype = getattr(torch, case.dtype)
    case = replace(case, impl=attention.resolve(case.impl, torch.device(case.device).type, dtype))
    shape = case.shape
    module = workload.seeded_module(case, attention, case.impl).to(device="meta", dtype=dtype)
    tokens = torch.empty(shape.batch, shape.heads, shape.tokens, shape.head_dim, dtype=dtype, device="meta")
    return _audit(case, attention, module.eval(), [tokens] * 3, settings)


def _audit(case: Case, attention: Attention, module: nn.Module, tensors: list[Tensor],
           settings: Settings) -> list[Reading]:
    from softbench.measures import _flops_counters as counters

    call = _one_argument_list(module, case.shape.grid, attention.module.SHARES_QK)
    inputs = (tensors[0], tensors[2]) if attention.module.SHARES_QK else tuple(tensors)

    def closed_form() -> Count:
        flops = float(attention.cost(case.shape).flops)
        return counters.Count(flops, {}, [], [])

    readings = [
        _reading("flops_closed_form", closed_form, settings),
        _reading("flops_torch", lambda: counters.by_torch(call, inputs), settings),
        _reading("flops_fvcore", lambda: counters.by_fvcore(call, inputs), settings),
    ]
    return _judged(readings, case, attention)


def _one_argument_list(module: nn.Module, grid: tuple[int, int], shares_qk: bool) -> nn.Module:
    """The attention as a module that takes tensors alone, as fvcore wants it."""
    from torch import nn

    class Call(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = module

        def forward(self, q: Tensor, *others: Tensor) -> Any:
            k, v = (q, *others) if shares_qk else others
            return self.attention(q, k, v, grid=grid)

    return Call()


def _reading(quantity: str, count: Callable[[], Count], settings: Settings) -> Reading:
    """The count as a reading; whatever goes wrong while counting fails this reading alone."""
    try:
        counted = count()
    except SoftbenchError as error:
        return Reading(quantity, UNIT, [], status="failed", note=str(error))
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        hint = "; try tensors=real" if settings.tensors == "meta" and quantity != "flops_closed_form" else ""
        return Reading(quantity, UNIT, [], status="failed", note=f"cannot count: {reason}{hint}")
    remarks = ([f"supplied {', '.join(counted.supplied)}"] if counted.supplied else []) + counted.remarks
    note = f"{_counter(quantity)}: {'; '.join(remarks)}" if remarks else ""
    detail = {"gmac": counted.flops / 2e9, "operators": counted.operators, "supplied": counted.supplied,
              "tensors": settings.tensors}
    return Reading(quantity, UNIT, [counted.flops], note=note, detail=detail)


def _judged(readings: list[Reading], case: Case, attention: Attention) -> list[Reading]:
    """The readings, failed where those that exist disagree, and with a remark where they agree only nearly."""
    counts = {r.quantity: r.samples[0] for r in readings if r.samples}
    spread = _spread(list(counts.values()))
    if spread < 1e-9:
        return readings
    numbers = ", ".join(f"{_counter(q)} {n:,.0f}" for q, n in counts.items()) + " flop"
    closed, *counters = readings
    impls = attention.module.IMPLS
    both = [c.samples[0] for c in counters if c.samples]
    if spread > AGREEMENT and case.impl == impls[-1] != impls[0] and len(both) == 2 and _spread(both) <= AGREEMENT:
        why = f"cost() does not describe '{case.impl}', the oracle, which does other products ({numbers})"
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
