"""Measuring commands: `softbench latency`, `memory`, `flops`, and one for every measure that a plugin adds."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softbench import config as configuration
from softbench import files, parsing, plugins
from softbench import options as opts
from softbench.case import ModelSpec
from softbench.cli import _presenting, _printing, _running
from softbench.cli._progress import Progress
from softbench.config import Config, Process, SweepConfig
from softbench.contracts import measure as measures
from softbench.errors import Unsupported, UsageError
from softbench.plugins.contained import contained
from softbench.records import Record, append

if TYPE_CHECKING:
    from softbench.bench.sweep import Job, Sweep

_QUICK_TOKENS = "256,1k,4k"
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
    if memory_limit is not None and not isolate:
        raise UsageError("--memory-limit works on child processes: add --isolate.")
    target = _running.output(name, out, resume)
    if plot is not None:
        from softbench.reports import plots

        plots.check_path(plot)
        files.keep_apart({"--out": [target], "--plot": [plot]},
                         _running.named_files([flags, assignments, config or configuration.FILE]))
    limit = parsing.memory(memory_limit, "--memory-limit") if memory_limit is not None else None
    settings = configuration.load(config, assignments, flags)
    if quick:
        settings = _quick(name, settings, flags)
    if limit:  # see softbench/bench/isolate.py
        settings = replace(settings, process=replace(settings.process, malloc="default"))
    baseline = settings.sweep.baseline

    from softbench.bench import session

    _printing.others_to_stderr()
    sweep = session.start(settings, name, command=_running.command(), timeout=timeout,
                          check_convergence=check_convergence)
    if dry_run:
        _print_plan(sweep.jobs, form)
        return 0
    sweep, known = _resume(sweep, target) if resume else (sweep, [])
    measured: list[Record] = []

    def tell() -> int:
        found = [*known, *measured]
        try:
            _presenting.print_records(found, form, baseline)
        finally:  # also where nobody reads the tables any more
            if any("work" in r.detail and "limit" not in r.detail for r in measured):
                _printing.say("No floors beside these times: `softbench roofline` measures once what this machine can"
                             " do.")
            drawn = plot is None or _presenting.plot_or_say_why(found, plot, baseline)
            _printing.say(f"Records: {target} ({len(measured)} new)")
        from softbench.bench.sweep import failed

        return _running.SOME_FAILED if failed(found) else 0 if drawn else _running.ERROR

    _measure(sweep, settings, target, isolate, limit, measured, tell)
    return tell()


def _measure(sweep: Sweep, settings: Config, out: Path, isolate: bool, limit: int | None, measured: list[Record],
             tell: Callable[[], int]) -> None:
    """Run the sweep and append what it yields to `out` and to `measured`, group by group.

    Where a case takes no end, all is told from another thread, and the process ended.
    """
    from softbench.bench import isolate as isolation

    progress = Progress([_weight(job) for job in sweep.jobs], _outcomes)

    def stuck(rows: list[Record]) -> None:
        code = _running.ERROR
        try:
            progress.__exit__(None, None, None)
            late = next(row.label for row in rows if row.status == "timeout")
            _printing.say(f"Stopped: {late} took no end after --timeout. With --isolate it would have been"
                          " ended alone.")
            append(out, rows)
            measured.extend(rows)
            code = tell()
            _printing.stdout().flush()
        finally:
            os._exit(code)

    watched = replace(sweep, on_start=lambda case: progress.start(str(case)), on_stuck=stuck)
    groups = isolation.isolated(watched, settings.process, limit) if isolate else iter(watched)
    _running.keep(groups, out, progress, "cases", measured)


def _weight(job: Job) -> float:
    """Seconds that a case should roughly take."""
    try:
        with contained():
            return _FIXED_SECONDS + _CALLS * job.subject.expected(job.case).flops / _FLOP_PER_SECOND
    except Exception:  # told as a row, where it is measured
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


def _resume(sweep: Sweep, out: Path) -> tuple[Sweep, list[Record]]:
    """The sweep without the jobs that `out` already holds for this environment, and the records of those jobs."""
    from softbench.bench.sweep import identity, subject

    names = [identity(sweep.measure_name, job) for job in sweep.jobs]
    settings = opts.to_dict(sweep.settings)
    known = _running.known(out, sweep.measure_name, sweep.environment, names, subject, "cases",
                          lambda record: record.detail.get("settings") == settings)
    left = [job for i, job in enumerate(sweep.jobs) if i not in known]
    return replace(sweep, jobs=left), [record for group in known.values() for record in group]


def _quick(name: str, settings: Config, flags: dict[str, dict[str, Any]]) -> Config:
    """A short programme in place of what the file says; what is given as a flag wins. Models keep their images."""
    own = settings.measures.get(name, {}) | getattr(measures.load(name), "QUICK", {}) | flags.get(name, {})
    sweep = settings.sweep
    if not sweep.model and not {"tokens", "grid"} & flags.get("sweep", {}).keys():
        sweep = replace(sweep, tokens=_QUICK_TOKENS, grid="")
    return replace(settings, sweep=sweep, measures=settings.measures | {name: own})


def _expected(job: Job) -> list[str]:
    from softbench.reports import format as text

    try:
        cost = job.subject.expected(job.case)
    except Unsupported:
        return [text.MISSING] * 2
    return [text.quantity(cost.flops, "flop"), text.quantity(cost.elements * 4, "B")]


def _print_plan(jobs: Sequence[Job], form: str) -> None:
    """The cases of a sweep with what they should cost, without running any."""
    from softbench.bench.sweep import resolved_impl
    from softbench.reports import format as text

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
