"""`softbench show` and `softbench plot`: result files as tables and figures, on any machine, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from softbench import records
from softbench.cli import presenting, printing, selecting
from softbench.errors import UsageError
from softbench.files import keep_apart
from softbench.records import Record


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """The flags that choose records and views."""
    flags = (
        click.option("--measure", metavar="NAMES", help="Only the records of these measures, comma-separated."),
        click.option("--attn", help="Only these attentions, by name or label, comma-separated; the baseline stays."),
        click.option("--model", help="Only these whole models, in the same way."),
        click.option("--where", multiple=True, metavar="COLUMN=VALUE",
                     help="Only records with this value, as in dtype=float32 or mode=forward. Repeatable."),
        click.option("--baseline", default="",
                     help="What ratios refer to; none for none. [softmax; of models, the first]"),
        click.option("--view", **presenting.VIEW),
    )
    for flag in reversed(flags):  # as decorators apply from the last to the first
        command = flag(command)
    return command


@click.command("show")
@click.argument("files", nargs=-1, required=True)
@_selecting
@printing.format_option
def show_command(files: Sequence[str], measure: str | None, attn: str | None, model: str | None, where: tuple[str, ...],
                 baseline: str, view: str | None, form: str) -> None:
    """Print result files as tables: the latest record of each case."""
    found = _select(files, measure, attn, model, where, baseline)
    presenting.print_records(found, form, baseline, presenting.choose((r.measure for r in found), view, plot=False))


@click.command("plot")
@click.argument("files", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .png or .svg file to write.")
@_selecting
def plot_command(files: Sequence[str], out: Path, measure: str | None, attn: str | None, model: str | None,
                 where: tuple[str, ...], baseline: str, view: str | None) -> None:
    """Draw result files: numbers against tokens and ratios to the baseline; of a study, a picture for each view."""
    from softbench.reports import plots

    plots.check_path(out)
    found = _select(files, measure, attn, model, where, baseline)
    chosen = presenting.choose((r.measure for r in found), view, plot=True)
    pictures = [path for name in {r.measure for r in found} for path in presenting.targets(out, name, chosen)]
    keep_apart({"--out": dict.fromkeys(pictures)}, records.expand(files))
    presenting.plot_records(found, out, baseline, chosen)


def _select(files: Sequence[str], measure: str | None, attn: str | None, model: str | None, where: Sequence[str],
            baseline: str) -> list[Record]:
    found, _ = selecting.read(records.expand(files))
    selecting.check_baseline(found, baseline)
    chosen = selecting.of_subjects(selecting.of_measures(found, measure), attn, model, baseline)
    chosen = selecting.where(chosen, where)
    if not chosen:
        there = [f"{what} {', '.join(sorted(names))}" for what, names in (
            ("measures", {r.measure for r in found}), ("attentions", {r.name for r in found if not r.model}),
            ("models", {r.name for r in found if r.model})) if names]
        raise UsageError(f"No record fits --measure, --attn, --model and --where. The files hold {'; '.join(there)}.")
    return chosen
