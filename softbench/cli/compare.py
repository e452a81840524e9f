"""`softbench compare`: which cases of one run are slower, faster or the same in another, and which cannot be told."""

from __future__ import annotations

from pathlib import Path

import click

from softbench.cli import _comparing, _printing, _running
from softbench.compare import sides, verdicts
from softbench.compare.verdicts import Comparison, Terms
from softbench.errors import SoftbenchError, unknown
from softbench.files import keep_apart


@click.command("compare", context_settings=_running.CONTEXT)
@click.argument("base")
@click.argument("head")
@click.option("--threshold", type=_running.Number(min=0, max=1000), default=5.0, show_default=True, metavar="PERCENT",
              help="Changes of a time up to this are the same.")
@click.option("--floor-us", type=_running.Number(min=0), default=1.0, show_default=True, metavar="US",
              help="Changes of a time up to so many microseconds are the same.")
@click.option("--tolerance", type=_running.Number(min=0, max=100), default=1.0, show_default=True, metavar="PERCENT",
              help="Changes of a seeded result up to this are the same. Bytes, FLOPs and counts must be equal.")
@click.option("--measure", metavar="NAMES", help="Only the records of these measures, comma-separated.")
@click.option("--across", metavar="KEYS", default="", help="Compare times although these differ, as in torch,threads.")
@click.option("--allow-missing", is_flag=True, help="A case that only BASE has is no failure.")
@click.option("--fail-on-inconclusive", is_flag=True, help="Exit with 4 where a case could not be decided.")
@click.option("--all", "everything", is_flag=True, help="List exact numbers that are the same, too.")
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw the ratios: a .png or .svg file.")
@_printing.format_option
@click.pass_context
def compare_command(context: click.Context, base: str, head: str, threshold: float, floor_us: float, tolerance: float,
                    measure: str | None, across: str, allow_missing: bool, fail_on_inconclusive: bool,
                    everything: bool, plot: Path | None, form: str) -> int:
    """Compare two result files case by case.

    BASE and HEAD are files, folders, globs in quotes, or one subject of a file: FILE@LABEL; @LABEL is of the other
    side's file.

    \b
    softbench compare before.jsonl after.jsonl
    softbench compare results/latency-cpu.jsonl@softmax @soft
    softbench compare old.jsonl new.jsonl --across torch --format md

    Exit codes: 0 no regression, 1 error, 2 usage, 3 something got worse, 4 inconclusive (with --fail-on-inconclusive),
    5 a case failed or is missing, or nothing could be compared.
    """
    if plot is not None:
        from softbench.reports import figures

        figures.check_path(plot)
    from softbench.gate import store

    one, other = sides.read(base, head)
    if plot is not None:
        keep_apart({"--plot": [plot]}, [*one.paths, *other.paths])
    for problem in dict.fromkeys([*one.problems, *other.problems]):
        _printing.say(f"Warning: {problem}")
    one, other = sides.only(one, measure), sides.only(other, measure)
    noise, run_noise = store.noise()
    terms = Terms(threshold / 100, floor_us / 1e6, tolerance / 100, noise, run_noise, _keys(across), allow_missing)
    comparison = verdicts.compare(one, other, terms)
    try:
        _comparing.show(comparison, one, other, terms, form, everything=everything)
    finally:  # also where nobody reads the tables any more
        drawn = plot is None or _draw(comparison, one, other, plot)
    if not comparison.compared:
        _printing.say("Nothing could be compared.")
    code = comparison.exit_code(fail_on_inconclusive)
    return code if code or drawn else _running.ERROR


def _draw(comparison: Comparison, base: sides.Side, head: sides.Side, path: Path) -> bool:
    from softbench.reports.figures import ratios

    try:
        ratios.plot(comparison, base, head, path)
    except SoftbenchError as error:
        _printing.say(f"Warning: no plot. {error}")
        return False
    _printing.say(f"Plot: {path}")
    return True


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(",")) if text else ()
    for key in keys:
        if key not in verdicts.KEYS:
            raise unknown("entry of the environment", key, verdicts.KEYS)
    return keys
