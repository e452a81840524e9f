"""The share of the CPU that other processes took while something ran: the commonest reason for a wrong timing.

From /proc/stat, for the cores that this process may use: all processes, and time stolen by a hypervisor's other guests,
minus this process's own time. The kernel counts in ticks of 10 ms, so one tick is taken off: a share that a short
stretch could have by rounding alone is not reported.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from softbench.machine.cores import available_cores

_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds


@dataclass(frozen=True)
class Ticks:
    """Processor seconds so far: used by everybody, used by this process; and the wall clock."""

    everybody: float
    own: float
    wall: float

    def __sub__(self, other: Ticks) -> Ticks:
        return Ticks(self.everybody - other.everybody, self.own - other.own, self.wall - other.wall)

    def __add__(self, other: Ticks) -> Ticks:
        return Ticks(self.everybody + other.everybody, self.own + other.own, self.wall + other.wall)

    @property
    def foreign_share(self) -> float:
        """Time of others, less a tick, over all time that this process's cores had, in 0..1."""
        capacity = self.wall * available_cores()
        return min(1.0, max(0.0, (self.everybody - self.own - _TICK) / capacity)) if capacity > 0 else 0.0


ZERO = Ticks(0.0, 0.0, 0.0)


def now() -> Ticks | None:
    """The counters now; None where /proc/stat does not exist."""
    try:
        with open("/proc/stat", encoding="ascii") as stat:
            lines = [line.split() for line in stat if line.startswith("cpu")]
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        busy = sum(_busy([int(field) for field in line[1:]]) for line in lines if line[0] in mine)
    except (OSError, ValueError, AttributeError):
        return None
    return Ticks(busy * _TICK, time.process_time(), time.perf_counter())


def _busy(ticks: list[int]) -> int:
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks[:8]
    return user + nice + system + irq + softirq + steal
