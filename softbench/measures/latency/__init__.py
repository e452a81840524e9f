"""Latency: seconds of one call, with every raw sample kept and the cases interleaved.

CPU: `perf_counter` around blocks of calls long enough for the timer; other processes' share of the CPU is recorded.
CUDA: one pair of events around each call, after a buffer of at least the L2 cache's size has been overwritten, which is
not timed; the SM clock is recorded. The garbage collector is off while samples are taken.

All workloads of a group are warmed before any is timed. Then rounds follow each other, and in each round every workload
gets an equal slice of its time budget, in an order that rotates, so that a drift of the machine hits all of them alike.
Samples are never dropped; the value of a reading is their median.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from softbench.contracts.measure import Reading
from softbench.contracts.quantities import Quantity, Section
from softbench.measures.latency.settings import Settings as Settings
from softbench.records.views import Cases, Curves, Roofline

if TYPE_CHECKING:
    from softbench.subjects.workload import Workload

QUANTITIES = (
    Quantity("latency", "s", "time", "less", column="median", per_image=True, answers="fastest"),
)
SECTION = Section(place=1)
MODES = ("forward", "backward", "forward_backward")
VIEWS = (
    Cases(name="cases", title="latency: median time of one call; IQR is the middle half of its samples."),
    Curves(name="curves", title="Latency of one call"),
    Roofline(name="roofline", title="What each call does a second, below what this machine can do at most",
             quantity="latency", series="label", panels="mode",
             note="Bytes: each input read once, each output written once. FLOP: by closed form, a training step three "
                  "times its forward. Along a line the tokens grow."),
)
QUICK = {"rep": 60.0, "warmup": 20.0, "rounds": 3}


def measure(workload: Workload, settings: Settings) -> list[Reading]:
    """Return the latency of one workload alone."""
    return measure_group([workload], settings)[0]


def measure_group(workloads: Sequence[Workload], settings: Settings) -> list[list[Reading]]:
    """Return the latency of each workload, interleaved over rounds."""
    from softbench.measures.latency import timing

    return timing.measure_group(workloads, settings)
