"""Measuring commands: `softbench latency`, `memory`, `flops`, and one for every measure that a plugin adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softbench import config as configuration
from softbench import parsing, plugins
from softbench.case import ModelSpec
from softbench.cli import _printing, _running
from softbench.config import Process, SweepConfig
from softbench.contracts import measure as measures
from softbench.errors import Unsupported
from softbench.plugins.contained import contained
from softbench.records import Record
from softbench.reports import format as text

if TYPE_CHECKING:
    from softbench.bench.sweep import Job

_FIXED_SECONDS, _CALLS, _FLOP_PER_SECOND = 0.7, 5, 1e11  # a rough model of what a case takes, for the time left


def measure_command(name: str) -> click.Command:
    """The command of a measure: the sweep's flags, the process's, and the measure's own settings."""
    sections = {"sweep": SweepConfig, "process": Process, name: measures.load(name).Settings}
    run = [*_running.run_options("cases"), *_isolation_options()]
    flags, owners = _running.setting_options(sections, run, f"Measure '{name}'")

    def callback(**values: Any) -> int:
        return _run(name, _running.take_settings(values, owners), **values)

    summary = plugins.summary("measures", name)
    return click.Command(name, callback=callback, params=[*flags, *run], help=summary,
                         context_settings=_running.CONTEXT)


def _isolation_options() -> list[click.Option]:
    return [
        click.Option(["--isolate"], is_flag=True, help="One child process a case; cases are then not interleaved."),
        click.Option(["--memory-limit"], metavar="AMOUNT",
                     help="With --isolate: the memory a case may use, as 2GiB or 2GB; beyond it, its row says oom."),
        click.Option(["--timeout"], type=_running.Seconds(), metavar="TIME",
                     help="Time a case may take, as 90s or 2m; beyond it, its row says timeout."),
        click.Option(["--check-convergence"], is_flag=True,
                     help="Mark a case as diverged where a small inverse within it has not converged."),
    ]


def _run(name: str, flags: dict[str, dict[str, Any]], *, assignments: tuple[str, ...], config: Path | None,
         out: Path | None, plot: Path | None, form: str, quick: bool, resume: bool, dry_run: bool, isolate: bool,
         memory_limit: str | None, timeout: float | None, check_convergence: bool) -> int:
    target = _running.output(name, out, resume, plot, None, [flags, assignments, config or configuration.FILE])
    limit = parsing.memory(memory_limit, "--memory-limit") if memory_limit is not None else None
    terms: dict[str, Any] = {"isolate": isolate, "memory_limit": limit, "timeout": timeout,
                             "check_convergence": check_convergence}

    from softbench.bench import session

    settings = session.configure(name, flags, path=config, assignments=assignments, quick=quick)
    _printing.others_to_stderr()
    if dry_run:
        _print_plan(session.lay_out(settings, name, **terms).jobs, form)
        return 0
    sweep = session.start(settings, name, command=_running.command(), **terms)
    return _running.carry_out(sweep, lambda left: [_weight(job) for job in left.jobs], _outcomes, out=target, plot=plot,
                              form=form, resume=resume, baseline=settings.sweep.baseline)


def _weight(job: Job) -> float:
    """Seconds that a case should roughly take."""
    try:
        with contained():
            return _FIXED_SECONDS + _CALLS * job.subject.expected(job.case).flops / _FLOP_PER_SECOND
    except Exception:  # it becomes a row where it is measured
        return _FIXED_SECONDS


def _outcomes(group: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(
        _place(record)
        + ("" if record.status == "ok" else f": {record.quantity} {record.status} ({record.note})")
        for record in group))


def _place(record: Record) -> str:
    if not record.model:
        return f"{record.label}, N = {record.tokens:,}"
    return f"{record.label}, {record.rows}x{record.cols}, batch {record.batch}, {record.coords.get('part', 'whole')}"


def _expected(job: Job) -> list[str]:
    try:
        cost = job.subject.expected(job.case)
    except Unsupported:
        return [text.MISSING] * 2
    return [text.quantity(cost.flops, "flop"), text.quantity(cost.elements * 4, "B")]


def _print_plan(jobs: Sequence[Job], form: str) -> None:
    """The cases of a sweep with what they should cost, without running any."""
    from softbench.bench.sweep import resolved_impl
    rows = []
    for job in jobs:
        shape, case = job.case.shape, job.case
        grid = f"{shape.rows}x{shape.cols}"
        place = [text.count(shape.batch), grid, case.spec.part] if isinstance(case.spec, ModelSpec) else [
            text.count(shape.tokens), grid]
        rows.append([*place, case.spec.label, resolved_impl(job), case.mode, case.dtype, *_expected(job)])
    models = isinstance(jobs[0].case.spec, ModelSpec)
    header = [*(["batch", "image", "part", "model"] if models else ["tokens", "grid", "attention"]), "impl", "mode",
              "dtype", "FLOPs, forward", "memory, about"]
    how = "counted on shapes alone" if models else "by formula"
    title = f"{len(jobs)} cases, not run; the costs are those of one forward call {how}, memory as float32."
    _printing.print_tables([_printing.listing(title, header, rows)], form)
