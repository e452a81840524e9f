"""Latency and memory of each attention at the shape at which it learns a task, all of them side by side."""

from __future__ import annotations

from collections.abc import Sequence

from softbench.bench.costs import Costs, disturbance
from softbench.bench.sweep import Job
from softbench.case import Case
from softbench.contracts.study import Finding
from softbench.machine import device
from softbench.studies.accuracy.learning import Subject
from softbench.subjects import OneAttention

_known: dict[str, Costs] = {}


def measured(subject: Subject, subjects: Sequence[Subject]) -> list[Finding]:
    """Both of one forward of an attention; those of all attentions are taken when the first is asked for."""
    problem, settings = subject.problem, subject.settings
    grid = problem.form(problem.open("test")).grid
    where = device.find(settings.device)
    cases = {each.spec.label: Case(each.spec, each.shape(grid), device=where, impl=each.spec.impl or "auto")
             for each in subjects}
    jobs = [Job(cases[each.spec.label], OneAttention(each.attention)) for each in subjects]
    costs = _known.setdefault(f"{problem.label} {settings}", Costs(jobs))
    case = cases[subject.spec.label]
    return [subject.finding(record.quantity, record.value, "cost", unit=record.unit, samples=record.samples,
                            status=record.status, detail=record.detail, dtype=record.dtype, impl=record.impl,
                            mode=record.mode, batch=1, heads=case.shape.heads, rows=grid[0], cols=grid[1],
                            head_dim=case.shape.head_dim,
                            note="; ".join(filter(None, (record.note, disturbance(record.detail)))))
            for record in costs.of(case)]
