"""Sweeps: one measure over many cases, in groups that share a point; whatever goes wrong becomes a row.

A group is built, checked, and measured together, so that a measure may interleave it. A case that runs out of memory,
is not supported, takes too long or gives a wrong result yields a record that says so, and the sweep goes on.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from itertools import groupby
from typing import Any, ClassVar, Self

import torch

from softbench import dtypes, options, records
from softbench.bench.programme import Item, Programme, Step, digest
from softbench.case import Case
from softbench.contracts.measure import Reading, readings, unread
from softbench.errors import PluginError
from softbench.machine import ceilings, device
from softbench.ops import pseudo_inverse
from softbench.plugins.contained import contained
from softbench.processes import state
from softbench.processes.limits import deadline
from softbench.records import UNFINISHED, About, Point, Record
from softbench.subjects import probe, witness, workload
from softbench.subjects.workload import Subject, Workload

_MOST_OF_LIMIT = 50.0  # caches are up to some twenty times as fast as the memory that the limit speaks of
_LONGER = 0.3  # seconds, beside a third of those of a first call, that a probe at more tokens should take


@dataclass(frozen=True)
class Job:
    """A case together with its loaded subject."""

    case: Case
    subject: Subject


@dataclass(frozen=True)
class Sweep(Programme):
    """One measure over many jobs on this machine.

    Attributes:
        timeout: seconds that a case may take.
        check_convergence: look, in the untimed call before measuring, whether every small inverse in it has
            converged; the numbers of a case where one has not are marked `diverged`.
    """

    jobs: list[Job]
    timeout: float | None = None
    check_convergence: bool = False
    _recorded: set[Case] = field(default_factory=set)
    _unconverged: dict[Case, str] = field(default_factory=dict)
    _probed: dict[Case, float] = field(default_factory=dict)
    word: ClassVar[str] = "cases"

    def steps(self, before: list[Record]) -> Iterator[Step]:
        """A step is a group of cases at one point where the measure interleaves them, else one case."""
        if hasattr(self.module, "measure_group"):
            for _, neighbours in groupby(self.jobs, key=lambda job: job.case.point()):
                group = list(neighbours)
                yield Step(str(group[0].case), len(group), partial(self._run_group, group))
        else:
            for job in self.jobs:
                yield Step(str(job.case), 1, partial(self._run_case, job))

    def _run_group(self, jobs: list[Job]) -> list[Record]:
        """Build all jobs, measure them together; what does not fit beside the others is measured alone afterwards."""
        results: dict[int, list[Reading]] = {}
        ready: dict[int, Workload] = {}
        for index, job in enumerate(jobs):
            self.on_start(str(job.case))
            outcome = self.attempt(self.prepare, job)
            if isinstance(outcome, Workload):
                ready[index] = outcome
            elif not (ready and outcome[0].status == "oom"):
                results[index] = outcome
        measured = self.attempt(self._measure_group, list(ready.values())) if ready else []
        if ready and not isinstance(measured[0], Reading):
            results |= dict(zip(ready, measured, strict=True))
        ready.clear()
        outcome = None  # the last workload too must be gone before another is measured alone
        for index, job in enumerate(jobs):  # all, before any counts as recorded: one of them may take no end
            results[index] = results.get(index) or self._run_alone(job)
        return [record for index, job in enumerate(jobs) for record in self._records(job, results[index])]

    def _run_alone(self, job: Job) -> list[Reading]:
        self.on_start(str(job.case))
        if hasattr(self.module, "measure_case"):
            return list(self.attempt(self._measure_case, job))
        built = self.attempt(self.prepare, job)
        return list(self.attempt(self._measure, built) if isinstance(built, Workload) else built)

    def _run_case(self, job: Job) -> list[Record]:
        return self._records(job, self._run_alone(job))

    def prepare(self, job: Job) -> Workload:
        """Build and check a job. One warm call may take a quarter of the timeout, as several calls follow."""
        _refuse_too_large(job)
        with state.guarded(), self._deadline(job.case):
            probed = self._probe(job)
            built = workload.build(job.case, job.subject)
            started = time.perf_counter()
            if self.check_convergence:
                with pseudo_inverse.watch() as watched:
                    built.check()
                self._unconverged[job.case] = watched.note
            else:
                built.check()
            once = time.perf_counter() - started
            if self.timeout is not None and (elapsed := seconds_of(built)) * 4 > self.timeout:
                raise TimeoutError(f"one call takes {elapsed:.1f} s, too long to repeat within {self.timeout:g} s")
            probe.probe_longer(job.case, job.subject, _LONGER + once / 3, probed)
        return built

    def _probe(self, job: Job) -> float:
        """The seconds that it took to compare the job with float64, once for all that have the same small case."""
        subject, case = job.subject.probed(job.case)
        if case not in self._probed:
            self._probed[case] = probe.probe(case, subject)
        return self._probed[case]

    def _measure_group(self, built: list[Workload]) -> list[list[Reading]]:
        with state.guarded(), self._deadline(*(one.case for one in built)):
            measured = [readings(self.module, one) for one in self.module.measure_group(built, self.settings)]
            for one in built:
                witness.examine(one)
        if len(measured) != len(built):
            raise PluginError(f"the measure gave readings of {len(measured)} cases, not of {len(built)}")
        return measured

    def _measure(self, built: Workload) -> list[Reading]:
        with state.guarded(), self._deadline(built.case):
            measured = readings(self.module, self.module.measure(built, self.settings))
            witness.examine(built)
        return measured

    def _measure_case(self, job: Job) -> list[Reading]:
        with state.guarded(), self._deadline(job.case):
            return readings(self.module, self.module.measure_case(job.case, job.subject, self.settings))

    def _records(self, job: Job, results: Sequence[Reading]) -> list[Record]:
        self._recorded.add(job.case)
        remark = self._unconverged.get(job.case, "")
        settings = options.to_dict(self.settings)
        marked = [_diverged(r, remark) if remark else r for r in results]
        return [make_record(self.name, job, replace(r, detail={**r.detail, "settings": settings}), self.environment)
                for r in marked]

    def unread(self, status: str, note: str) -> Reading:
        return unread(self.module, status, note)

    def items(self) -> list[Item]:
        reading = Reading("", detail={"settings": options.to_dict(self.settings)})
        return [self.item(make_record(self.name, job, reading, {})) for job in self.jobs]

    def item(self, record: Record) -> Item:
        """The case that a record is of, whichever quantity it is, under the settings that it carries."""
        name = replace(record, quantity="").identity()
        return Item(name, digest(name, record.detail.get("settings")))

    def only(self, positions: Collection[int]) -> Self:
        return replace(self, jobs=[self.jobs[i] for i in sorted(positions)])

    def _deadline(self, *cases: Case) -> AbstractContextManager[None]:
        """The timeout of so many cases at once."""
        if self.timeout is None:
            return deadline(None)
        import_whole()
        return deadline(self.timeout * len(cases), partial(self._give_up, cases) if self.on_stuck else None)

    def _give_up(self, cases: Sequence[Case]) -> None:
        """Hand out rows for these cases, which take no end, and for all that would have come after them."""
        labels = " or ".join(dict.fromkeys(case.spec.label for case in cases))
        late = {replace(case, impl="") for case in cases}
        plain = unread(self.module)
        own = replace(plain, status="timeout", note=f"no result within {self.timeout:g} s, nor any end to it")
        others = replace(plain, status="not_run", note=f"not run: there was no end to {labels}; add --isolate",
                         detail={UNFINISHED: True})
        rows = [record for job in self.jobs if job.case not in self._recorded
                for record in self._records(job, [own if replace(job.case, impl="") in late else others])]
        assert self.on_stuck is not None
        self.on_stuck(rows)


def import_whole() -> None:
    """Import what torch imports in a first call, where a timeout counts it, and would leave it half imported."""
    import_module("torch._dynamo")


def _diverged(reading: Reading, remark: str) -> Reading:
    """The reading, marked; a reading that is not ok for another reason stays what it is."""
    if reading.status != "ok":
        return reading
    return replace(reading, status="diverged", note="; ".join(filter(None, [reading.note, remark])))


def make_record(measure: str, job: Job, reading: Reading, environment: dict[str, Any]) -> Record:
    """The record of one reading of a job."""
    notes, limit = [reading.note, job.subject.note(job.case)], _limit(reading, job.case, environment)
    if (share := limit.get("limit", {}).get("share")) and share > _MOST_OF_LIMIT:
        reading = replace(reading, samples=[], value=None, status="failed")
        notes.append(f"the time is {1 / share:.1%} of the least that this machine needs (`softbench roofline`): its"
                     " work cannot have been done")
    noted = replace(reading, note="; ".join(filter(None, notes)), detail=reading.detail | limit)
    return records.make(measure, noted, about(job), point(job), records.origin(environment))


def about(job: Job) -> About:
    """Say what a job measures, as records do."""
    case, subject = job.case, job.subject
    return About(attention=subject.attention or None, options=subject.options, model=subject.model or None,
                 impl=resolved_impl(job) or None, mode=case.mode, label=case.spec.label)


def point(job: Job) -> Point:
    """Say where a job measures, as records do."""
    case, shape = job.case, job.case.shape
    return Point(batch=shape.batch, heads=shape.heads or None, rows=shape.rows, cols=shape.cols,
                 head_dim=shape.head_dim or None, causal=shape.causal or None, dtype=case.dtype,
                 device=torch.device(case.device).type, seed=case.seed,
                 coords={"inputs": case.inputs, **job.subject.coords})


def place(job: Job) -> dict[str, Any]:
    """Say what and where a job measures, as the fields of a study's finding."""
    return {**vars(about(job)), **vars(point(job))}


def _limit(reading: Reading, case: Case, environment: dict[str, Any]) -> dict[str, Any]:
    """Say what this machine's ceilings make of a time whose unavoidable work is known."""
    work = reading.detail.get("work")
    known = ceilings.load(environment, case.device) if work else None
    limit = known.limit(work["bytes"], work["flops"], case.dtype, reading.summary) if work and known else {}
    return {"limit": limit} if limit else {}


def resolved_impl(job: Job) -> str:
    """Name the implementation that runs, or the one that was named where it cannot."""
    case = job.case
    try:
        with contained():
            return job.subject.resolve(case.impl, device.kind(case.device), dtypes.of(case.dtype), case.shape)
    except Exception:  # what a plugin raises here becomes a row where it is built
        return case.impl


def _refuse_too_large(job: Job) -> None:
    """Stop a case on the CPU that would bring the machine down: Linux kills a process rather than refuse memory."""
    available = device.free(device.CPU)
    if device.kind(job.case.device) != device.CPU or available is None:
        return
    needed = job.subject.needed(job.case)
    if needed > available:
        raise MemoryError(f"not run: it needs about {needed / 2**30:,.0f} GiB, {available / 2**30:,.0f} GiB are free")


def seconds_of(built: Workload) -> float:
    """The time of one call, the device's work included."""
    state = built.prepare()
    device.synchronize(built.device)
    started = time.perf_counter()
    built.run(state)
    device.synchronize(built.device)
    return time.perf_counter() - started
