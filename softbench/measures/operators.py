"""operators: calls of torch operators in one call, an exact sign of work that was added, fused or removed.

Counted where torch dispatches to a device, below autograd, so that a composite operator counts as the parts it is made
of, views included. One version of torch gives one number on every machine; another version may split operators
otherwise. A kernel that is not a torch operator (Triton, called without a registered operator) is not seen, but what it
replaces is no longer counted. The detail of a record holds the count of each operator.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softbench.contracts.measure import Reading
from softbench.contracts.quantities import Quantity

if TYPE_CHECKING:
    from softbench.subjects.workload import Workload

QUANTITIES = (Quantity("operators", "1", "exact", "less", counts="calls", depends=("torch",)),)
GATED = ("attention", "model")
MODES = ("forward", "forward_backward", "backward")


@dataclass(frozen=True)
class Settings:
    pass


def measure(workload: Workload, settings: Settings) -> list[Reading]:
    """The number of operator calls in one call of what the mode says, after one call that makes lazy state."""
    workload.run(workload.prepare())
    state = workload.prepare()
    counts = _count(lambda: workload.run(state))
    return [Reading("operators", "1", [float(counts.total())], detail={"operators": dict(sorted(counts.items()))})]


def _count(call: Any) -> Counter[str]:
    from torch.utils._python_dispatch import TorchDispatchMode

    counts: Counter[str] = Counter()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counts[func.name()] += 1
            return func(*args, **(kwargs or {}))

    with Counting():  # type: ignore[no-untyped-call]
        call()
    return counts
