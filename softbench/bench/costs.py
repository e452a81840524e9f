"""Costs of the subjects of a study: softbench's own latency and memory, taken on the same machine in the same run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softbench.bench.sweep import Job, Sweep
from softbench.case import Case
from softbench.measures import latency, memory
from softbench.records import Record

TOGETHER = 4096  # tokens up to which all cases are held at once and their latencies interleaved
_LATENCY = latency.Settings(rep=60.0, warmup=20.0, rounds=3)
_MEMORY = memory.Settings(passes=1)
_FOREIGN = 0.05  # share of the CPU that other processes may have while a call is timed


def disturbance(detail: Mapping[str, Any]) -> str:
    """The note on a latency that other processes may have spoilt; "" where they did not."""
    disturbed = (detail.get("foreign_cpu") or 0) > _FOREIGN
    return f"other processes took more than {_FOREIGN:.0%} of the CPU" if disturbed else ""


class Costs:
    """Latency and peak memory of one forward of each job, measured for all jobs when one is first wanted."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = {job.case: job for job in jobs}
        self._records: dict[Case, list[Record]] = {}

    def of(self, case: Case) -> list[Record]:
        """The records of latency and of peak_memory; a case that cannot run gives rows that say so."""
        if case not in self._records:
            together = case.shape.tokens <= TOGETHER
            self._measure([job for job in self.jobs.values() if together or job.case == case])
        return self._records[case]

    def _measure(self, jobs: list[Job]) -> None:
        self._records |= {job.case: [] for job in jobs}
        for name, module, settings in (("latency", latency, _LATENCY), ("memory", memory, _MEMORY)):
            done = 0
            for count, records in Sweep(name, module, settings, jobs):
                for job, record in zip(jobs[done : done + count], records, strict=True):
                    self._records[job.case].append(record)
                done += count
