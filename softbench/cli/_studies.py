"""Study commands: `softbench pinv`, `approx-error`, and one for every study that a plugin adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from softbench import config as configuration
from softbench import plugins
from softbench.cli import _presenting, _printing, _running
from softbench.config import Process
from softbench.contracts import study as studies
from softbench.records import Record


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
    chosen = _presenting.choose([name], view, plot=plot is not None)
    target = _running.output(name, out, resume, plot, chosen, [flags, assignments, config or configuration.FILE])

    from softbench.bench import session

    settings = session.configure(name, flags, path=config, assignments=assignments, quick=quick)
    _printing.others_to_stderr()
    if dry_run:
        tasks = session.lay_out_study(settings, name).tasks
        title = f"{len(tasks)} tasks, not run."
        _printing.print_tables([_printing.listing(title, ("task",), [(task.name,) for task in tasks])], form)
        return 0
    study = session.start_study(settings, name, command=_running.command())
    return _running.carry_out(study, lambda left: [1.0] * len(left.tasks), _outcome, out=target, plot=plot, form=form,
                              resume=resume, force=force, chosen=chosen)


def _outcome(rows: Sequence[Record]) -> list[str]:
    """One line: the task, and which statuses its numbers have besides ok."""
    if not rows:
        return ["nothing found"]
    name, counts = rows[0].coords["task"], Counter(r.status for r in rows if r.status != "ok")
    if len(rows) == 1 and counts:
        return [f"{name}: {rows[0].status} ({rows[0].note})"]
    statuses = ", ".join(f"{count} of {len(rows)} numbers {status.replace('_', ' ')}"
                         for status, count in counts.items())
    return [name + (f": {statuses}" if statuses else "")]
