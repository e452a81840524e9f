"""`softbench baseline`: the stored numbers that `softbench check` may compare with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from softbench.cli import _printing, _running, _scope
from softbench.errors import SoftbenchError, UsageError
from softbench.gate import ending


@click.group("baseline", context_settings=_running.CONTEXT)
def baseline_command() -> None:
    """Write the stored numbers that `softbench check` compares with."""


@baseline_command.command("update")
@click.option("--out", "folder", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Where the file of this machine goes. [results/baseline]")
@click.option("--force", is_flag=True, help="Also from a checkout with changes, or from none.")
@click.option("--no-studies", is_flag=True, help="Leave out the errors of the seeded studies.")
@_scope.options
@_scope.model
@ending.in_order()
def update_command(folder: Path | None, force: bool, no_studies: bool, **flags: Any) -> None:
    """Measure this checkout and put the result in place of this machine's baseline.

    The records hold the commit, the environment and the commands that made them.
    """
    from softbench.gate import check as gate
    from softbench.gate import programme, source, store

    head = source.head()
    if not force and (head.dirty or head.commit is None):
        why = "has changes that no commit holds" if head.dirty else "is no git checkout"
        raise UsageError(f"{head.root} {why}, so that nobody could measure this baseline again. Commit first, or add"
                         " --force.")
    scope = _scope.take(flags)
    steps = [*programme.exact(scope, head, studies=not no_studies), *programme.times(scope, head, gate.RUNS)]
    measured = programme.run(steps, head, lambda step: _printing.say(f"{step.measure} ..."))
    failed = [record for record in measured if record.status in ("failed", "timeout")]
    if failed:
        raise SoftbenchError(f"{len(failed)} cases failed, the first with: {failed[0].label or failed[0].measure},"
                             f" {failed[0].note}. A baseline with failures is not written.")
    path = store.write(folder or store.BASELINES, measured)
    _printing.say(f"Baseline: {path} ({len(measured)} records)")
