"""The work that one call of an attention cannot avoid: bytes in and out of memory, and floating-point operations.

An ideal fused attention reads each input once and writes each output once; everything between stays on the chip.
    forward            reads q, k, v and the parameters, writes y
    backward           reads these and dy, writes dq, dk, dv and the gradients of the parameters
    forward_backward   as if both were one kernel: reads q, k, v, parameters and dy once, writes y and all gradients
A backward needs neither y nor anything else from the forward: it can compute all that again from the inputs. Where keys
are the queries, both are one tensor.

FLOP are those of the attention's closed form, `cost()`, without those that it says are `avoidable`, as of pairs that a
mask leaves out. A product C = A B has two products of the same size in its
gradient, dC B^T and A^T dC, so a backward counts twice the forward, and both together three times; what is computed
again does not count.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from softbench.errors import SoftbenchError

if TYPE_CHECKING:
    from softbench.subjects.workload import Workload

_FORWARDS = {"forward": 1.0, "backward": 2.0, "forward_backward": 3.0}


def unavoidable(workload: Workload) -> dict[str, float]:
    """`bytes` and `flops` of one call; nothing for whole models, which are not one kernel."""
    subject = getattr(workload, "subject", None)  # a study may time something that is no subject at all
    if subject is None or subject.model:
        return {}
    case = workload.case
    try:
        flops = max(0.0, float(subject.closed_form(case)) - subject.avoidable(case))
    except SoftbenchError:
        return {}
    state = [*workload.module.parameters(), *workload.module.buffers()]
    read = sum(t.numel() * t.element_size() for t in [*workload.inputs, *state])
    output = math.prod(workload.output) * workload.inputs[-1].element_size()
    gradients = sum(t.numel() * t.element_size() for t in workload.leaves)
    moved = {"forward": read + output, "backward": read + output + gradients,
             "forward_backward": read + 2 * output + gradients}
    return {"bytes": float(moved[case.mode]), "flops": _FORWARDS[case.mode] * flops}
