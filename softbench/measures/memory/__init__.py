"""memory: the peak of bytes allocated by one call, beyond what is alive before it.

The peak is the largest number of bytes that torch's allocator has handed out at any moment of the call, less what it
had handed out when the call began. Inputs and parameters are therefore not counted; everything that the call
allocates is: temporaries inside operators, what is saved for the backward, the gradients, and the output. In mode
`backward` the graph is built before the call, so the tensors it saved are not counted, and what the call frees of
them makes room for what it allocates. A pass whose figure is dropped comes first, so that lazily made state (cached
indices, cuBLAS workspaces) is alive before, and each pass does nothing else but this measurement.

On the CPU, torch.profiler reports every allocation of torch's CPU allocator with its exact size and the running total,
which is read in `passes.py`; a scalar operand shows up as a few bytes. Not seen is what libraries take from the
system themselves (packing buffers of MKL and oneDNN). Some kernels keep one buffer for each thread, so the number of
threads belongs to the number. On CUDA the caching allocator's own statistics are read; it rounds each block up to
512 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from softbench.contracts.measure import Reading
from softbench.contracts.quantities import Quantity, Section
from softbench.options import option
from softbench.records.views import Cases, Curves

if TYPE_CHECKING:
    from softbench.subjects.workload import Workload

QUANTITIES = (
    Quantity("peak_memory", "B", "exact", "less"),
    Quantity("weights", "B", "exact", "less"),
)
VIEWS = (
    Cases(name="cases",
          title="memory: the most bytes that one call holds at once, beyond its inputs and parameters."),
    Curves(name="curves", title="Peak memory of one call, beyond inputs and parameters", quantities=("peak_memory",)),
)
SECTION = Section(place=6)
MODES = ("forward", "forward_backward", "backward")


@dataclass(frozen=True)
class Settings:
    passes: int = option(2, "Times that the peak is measured; the passes should agree.", low=1, high=100)


def measure(workload: Workload, settings: Settings) -> list[Reading]:
    """The peak of each pass, summarised by the largest."""
    from softbench.measures.memory import passes

    return passes.measure(workload, settings.passes)
