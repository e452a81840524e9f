"""`softbench check`: the gate of CI."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click

from softbench import records
from softbench.cli import _comparing, _printing, _running, _scope
from softbench.compare.verdicts import Terms
from softbench.errors import UsageError
from softbench.files import keep_apart
from softbench.gate.ending import Ending
from softbench.records import Record

_STORED, _PAIRED = 5.0, 2.0  # default thresholds in per cent: of recorded runs, and of interleaved rounds


@click.command("check", context_settings=_running.CONTEXT)
@click.option("--against", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Compare with the baselines stored there. [results/baseline]")
@click.option("--base", metavar="GITREV", help="Compare with this revision, run beside this checkout, instead.")
@_scope.options
@_scope.model
@click.option("--only", type=click.Choice(("exact", "times")), help="Only exact quantities, or only times.")
@click.option("--no-studies", is_flag=True, help="Leave out the errors of the seeded studies.")
@click.option("--threshold", type=_running.Number(min=0, max=1000), metavar="PERCENT",
              help="Changes of a time up to this are the same. [2 with --base, 5 without]")
@click.option("--floor-us", type=_running.Number(min=0), default=1.0, metavar="US", show_default=True,
              help="Changes of a time up to so many microseconds are the same.")
@click.option("--rounds", type=click.IntRange(min=2, max=1000), default=6, show_default=True,
              help="With --base: rounds before the first look.")
@click.option("--most-rounds", type=click.IntRange(min=2, max=1000), default=24, show_default=True,
              help="With --base: rounds that an undecided case may have.")
@click.option("--slice-ms", type=_running.Number(min=1, max=60_000), default=100.0, show_default=True, metavar="MS",
              help="With --base: how long each of the four places of a round lasts.")
@click.option("--budget", type=_running.Seconds(), metavar="TIME",
              help="What is open after so many seconds, or 20m, is inconclusive. [as long as it takes]")
@click.option("--allow-missing", is_flag=True, help="A case that only the base has is no failure.")
@click.option("--fail-on-inconclusive", is_flag=True, help="Exit with 4 where a case could not be decided.")
@click.option("--out", type=click.Path(path_type=Path), help="Also append what was measured here to this file.")
@click.option("--dry-run", is_flag=True, help="Say what would be measured, and about how long that takes; run nothing.")
@_printing.format_option
def check_command(against: Path | None, base: str | None, only: str | None, no_studies: bool, threshold: float | None,
                  floor_us: float, rounds: int, most_rounds: int, slice_ms: float, budget: float | None,
                  allow_missing: bool, fail_on_inconclusive: bool, out: Path | None, dry_run: bool, form: str,
                  **flags: Any) -> int:
    """Has this checkout become slower, larger or wrong?

    Exact quantities come first: operations, operators, peak bytes, errors of seeded studies. Then times: with --base
    both versions run in turn on this machine; against a stored baseline only where its environment is this one. What is
    known at SIGTERM, SIGHUP or Ctrl-C is printed, and kept in --out.

    \b
    softbench check --base origin/main --budget 20m
    softbench check --against results/baseline --only exact

    Exit codes: 0 no regression, 1 error, 2 usage, 3 something got worse, 4 inconclusive (with --fail-on-inconclusive),
    5 a case failed or is missing, or nothing could be compared, 129, 130, 143 ended by SIGHUP, SIGINT, SIGTERM.
    """
    if base is not None and against is not None:
        raise UsageError("--base and --against both say what to compare with. Give one of them.")
    from softbench.gate import check as gate
    from softbench.gate import outlook, source, store

    if out is not None:
        keep_apart({"--out": [out]}, (against or store.BASELINES).glob("*") if base is None else ())
        if not dry_run:
            records.check_writable(out)
    noise, run_noise = store.noise()
    percent = threshold if threshold is not None else _PAIRED if base is not None else _STORED
    terms = Terms(percent / 100, floor_us / 1e6, noise=noise, run_noise=run_noise, allow_missing=allow_missing)
    narrowed = any(value is not None for value in flags.values()) or no_studies
    with Ending(budget or math.inf) as ending, source.revision(base) if base is not None else nullcontext() as older:
        check = gate.Check(_scope.take(flags), terms, narrowed, only != "times", only != "exact", not no_studies,
                           rounds, most_rounds, slice_ms, ending, _printing.say, partial(_append, out))
        head, other = source.head(), older or gate.stored(against or store.BASELINES)
        parts = outlook.of(check, head, older)
        if dry_run:
            rows = [(part.what, str(part.cases), outlook.span(part.low, part.high)) for part in parts]
            title = f"{outlook.told(parts)} on two idle cores, not run."
            _printing.print_tables([_printing.listing(title, ("what", "cases", "about"), rows)], form)
            return 0
        _printing.say(f"About {outlook.told(parts)} on two idle cores. --budget bounds it, --dry-run lists the parts.")
        outcome = gate.against(check, head, other)
        _comparing.show(outcome.comparison, outcome.base, outcome.head, terms, form)
    if error := outcome.ended or ending.error:
        raise error
    if not outcome.comparison.compared:
        _printing.say("Nothing could be compared.")
    return outcome.comparison.exit_code(fail_on_inconclusive)


def _append(out: Path | None, rows: Sequence[Record]) -> None:
    if out is not None:
        records.append(out, rows)
