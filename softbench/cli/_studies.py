"""Study commands: `softbench pinv`, `approx-error`, and one for every study that a plugin adds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softbench import config as configuration
from softbench import files, plugins
from softbench.cli import _presenting, _printing, _running
from softbench.cli._progress import Progress
from softbench.config import Process
from softbench.contracts import study as studies
from softbench.errors import SoftbenchError
from softbench.records import Record

if TYPE_CHECKING:
    from softbench.bench.study import Study


def study_command(name: str) -> click.Command:
    """The command of a study: its own settings, and the process's."""
    run = [*_running.run_options("tasks"), click.Option(["--view"], **_presenting.VIEW)]
    if hasattr(studies.load(name), "recall"):
        run.append(click.Option(["--force"], is_flag=True, help="Measure anew what this machine is known to do."))
    sections = {name: studies.load(name).Settings, "process": Process}
    flags, owners = _running.setting_options(sections, run, f"Study '{name}'")

    def callback(**values: Any) -> int:
        return _run(name, _running.take_settings(values, owners), **values)

    summary = plugins.summary("studies", name)
    views = ", ".join(view.name for view in studies.load(name).VIEWS)
    return click.Command(name.replace("_", "-"), callback=callback, params=[*flags, *run], short_help=summary,
                         help=f"{summary}\n\nViews: {views}.", context_settings=_running.CONTEXT)


def _run(name: str, flags: dict[str, dict[str, Any]], *, assignments: tuple[str, ...], config: Path | None,
         out: Path | None, plot: Path | None, form: str, quick: bool, resume: bool, dry_run: bool,
         view: str | None, force: bool = False) -> int:
    target = _running.output(name.replace("_", "-"), out, resume)
    chosen = _presenting.choose([name], view, plot=plot is not None)
    if plot is not None:
        from softbench.reports import plots

        plots.check_path(plot)
        files.keep_apart({"--out": [target], "--plot": _presenting.targets(plot, name, chosen)},
                         _running.named_files([flags, assignments, config or configuration.FILE]))
    if quick:
        flags = flags | {name: dict(studies.load(name).QUICK) | flags.get(name, {})}
    settings = configuration.load(config, assignments, flags)

    from softbench.bench import session

    _printing.others_to_stderr()
    study = session.start_study(settings, name, command=_running.command())
    if dry_run:
        title = f"{len(study.tasks)} tasks, not run."
        _printing.print_tables([_printing.listing(title, ("task",), [(task.name,) for task in study.tasks])], form)
        return 0
    known = _running.known(target, name, study.environment, [task.name for task in study.tasks], _task, "tasks") \
        if resume else {} if force else _recalled(study)
    if any(i not in known for i in range(len(study.tasks))):
        known = {i: group for i, group in known.items() if not study.tasks[i].concludes}
    left = replace(study, tasks=[task for i, task in enumerate(study.tasks) if i not in known],
                   known=[record for group in known.values() for record in group])
    measured = _measure(left, target) if left.tasks else []
    if hasattr(study.module, "remember") and (sound := [r for r in measured if r.status == "ok"]):
        _remember(study, sound)
    found = _in_order(study, [*(record for group in known.values() for record in group), *measured])
    try:
        _presenting.print_records(found, form, "", chosen)
    finally:  # also where nobody reads the tables any more
        drawn = plot is None or _presenting.plot_or_say_why(found, plot, "", chosen)
        if measured or resume:
            _printing.say(f"Records: {target} ({len(measured)} new)")
    from softbench.bench.sweep import failed

    return _running.SOME_FAILED if failed(found) else 0 if drawn else _running.ERROR


def _remember(study: Study, found: Sequence[Record]) -> None:
    """Have a study keep what it found of this machine; where it cannot, say why: the records are in --out anyway."""
    try:
        _printing.say(f"Kept for this machine: {study.module.remember(found, study.environment, study.device)}")
    except SoftbenchError as error:
        _printing.say(f"Warning: not kept for this machine. {error}")


def _recalled(study: Study) -> dict[int, list[Record]]:
    """What a study that is measured once for a machine has kept of this one, by the position of its task."""
    if not hasattr(study.module, "recall"):
        return {}
    kept: dict[str, list[Record]] = {}
    for record in study.module.recall(study.environment, study.device):
        kept.setdefault(_task(record), []).append(record)
    known = {i: kept[task.name] for i, task in enumerate(study.tasks) if task.name in kept}
    if known:
        first = known[min(known)][0]
        _printing.say(f"Measured before, at {first.started}, and kept; --force measures anew.")
    return known


def _measure(study: Study, out: Path) -> list[Record]:
    """Run the tasks and append what each gives to `out`."""
    progress = Progress([1.0] * len(study.tasks), _outcome)
    watched = replace(study, on_start=lambda task: progress.start(task.name))
    kept: list[Record] = []
    _running.keep(((1, found) for _, found in watched), out, progress, "tasks", kept)
    return kept


def _task(record: Record) -> str:
    return str(record.coords.get("task", ""))


def _outcome(found: Sequence[Record]) -> list[str]:
    """One line: the task, and which statuses its numbers have besides ok."""
    if not found:
        return ["nothing found"]
    counts: dict[str, int] = {}
    for record in found:
        if record.status != "ok":
            counts[record.status] = counts.get(record.status, 0) + 1
    if len(found) == 1 and counts:
        return [f"{_task(found[0])}: {found[0].status} ({found[0].note})"]
    said = ", ".join(f"{count} of {len(found)} numbers {status.replace('_', ' ')}" for status, count in counts.items())
    return [_task(found[0]) + (f": {said}" if said else "")]


def _in_order(study: Study, found: list[Record]) -> list[Record]:
    """The records in the order of the tasks, however often the study was resumed."""
    order = {task.name: i for i, task in enumerate(study.tasks)}
    return sorted(found, key=lambda record: order[_task(record)])
