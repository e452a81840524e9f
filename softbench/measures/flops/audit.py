"""Counts the operations of one call three times, and judges where the counts agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from softbench.case import Case
from softbench.contracts.measure import Reading
from softbench.errors import SoftbenchError, Unsupported, text
from softbench.measures.flops.counters import Count, by_fvcore, by_torch
from softbench.subjects.workload import Subject, Workload, build

AGREEMENT = 0.01  # the largest relative distance between two readings of one case


class _Call(nn.Module):
    """The workload as a module that takes tensors alone, as fvcore wants it."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.module, self.call = workload.module, workload.call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*inputs)


def measure(workload: Workload, tensors: str) -> list[Reading]:
    """The readings of a workload, as `measure_case` gives them of a case."""
    if tensors == "meta" and workload.device.type != "meta":
        assert workload.subject is not None
        return measure_case(workload.case, workload.subject, tensors)
    return _audit(workload, _Call(workload), tensors)


def measure_case(case: Case, subject: Subject, tensors: str) -> list[Reading]:
    """The readings of a case, without building its inputs unless real ones are asked for."""
    return measure(build(case, subject, on="meta" if tensors == "meta" else None), tensors)


def _audit(workload: Workload, module: nn.Module, tensors: str) -> list[Reading]:
    def closed_form() -> Count:
        if workload.subject is None:
            raise Unsupported("there is no formula")
        return Count(workload.subject.closed_form(workload.case), {}, [], [])

    readings = [
        _reading("flops_closed_form", closed_form, tensors),
        _reading("flops_torch", lambda: by_torch(module, workload.inputs), tensors),
        _reading("flops_fvcore", lambda: by_fvcore(module, workload.inputs), tensors),
    ]
    impls = workload.subject.impls if workload.subject else ()
    judged = _judged(readings, oracle=len(impls) > 1 and workload.case.impl == impls[-1], impl=workload.case.impl)
    return [*judged, *_parameters(workload)]


def _parameters(workload: Workload) -> list[Reading]:
    """How many parameters a model has; of an attention alone they are not worth a column."""
    count = sum(p.numel() for p in workload.module.parameters())
    return [Reading("parameters", "1", [float(count)])] if workload.subject and workload.subject.model else []


def _reading(quantity: str, count: Callable[[], Count], tensors: str) -> Reading:
    """The count as a reading; whatever goes wrong while counting fails this reading alone."""
    try:
        counted = count()
    except Unsupported as error:
        return Reading(quantity, "flop", [], status="unsupported", note=str(error))
    except SoftbenchError as error:
        return Reading(quantity, "flop", [], status="failed", note=str(error))
    except Exception as error:
        reason = f"{type(error).__name__}: {text(error).partition(chr(10))[0][:200]}"
        hint = "; try tensors=real" if tensors == "meta" and quantity != "flops_closed_form" else ""
        return Reading(quantity, "flop", [], status="failed", note=f"cannot count: {reason}{hint}")
    remarks = ([f"supplied {', '.join(counted.supplied)}"] if counted.supplied else []) + counted.remarks
    note = f"{_counter(quantity)}: {'; '.join(remarks)}" if remarks else ""
    detail = {"gmac": counted.flops / 2e9, "operators": counted.operators, "supplied": counted.supplied,
              "tensors": tensors}
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
