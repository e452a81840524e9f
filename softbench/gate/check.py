"""The check: this checkout against a stored baseline or a git revision; exact quantities first, then times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from softbench import config as configuration
from softbench.bench import session
from softbench.compare import sides, verdicts
from softbench.compare.sides import Side
from softbench.compare.verdicts import Comparison, Terms
from softbench.errors import ResultsError
from softbench.gate import programme
from softbench.gate.paired import Pair, Plan
from softbench.gate.programme import Scope, Step
from softbench.gate.source import Source
from softbench.machine import environment
from softbench.records import Record

RUNS = 3  # recordings of the times on each side, where they are not taken side by side


@dataclass(frozen=True)
class Check:
    """What is checked, and who is told how far it is.

    Attributes:
        narrowed: the scope is not the whole programme, so that cases which only the base has are no concern.
        exact, times: which half is wanted.
        first, cap, slice_ms: see `softbench.gate.paired.Plan`.
    """

    scope: Scope
    terms: Terms
    narrowed: bool = False
    exact: bool = True
    times: bool = True
    studies: bool = True
    first: int = 6
    cap: int = 24
    slice_ms: float = 100.0
    say: Callable[[str], None] = field(default=lambda text: None)


@dataclass(frozen=True)
class Outcome:
    """The comparison, its sides as tables name them, and what was measured of this checkout."""

    comparison: Comparison
    base: Side
    head: Side
    records: list[Record]


def against_stored(check: Check, head: Source, folder: Path) -> Outcome:
    """Compare with the baselines in a folder; times only with those of this very environment.

    Raises:
        ResultsError: there is no baseline.
    """
    if not any(folder.glob("*.jsonl")):
        raise ResultsError(f"No baseline in {folder}. Write one with `softbench baseline update`, or compare with a"
                           " revision: `softbench check --base origin/main`.")
    stored = sides.load(str(folder), str(folder))
    found, rows = [], []
    if check.exact:
        found = _run(check, programme.exact(check.scope, head, studies=check.studies), head)
        rows += _rows(check, _exact_part(stored, found), replace(stored, name="head", records=found))
    if check.times and not _failed(rows):
        timed = [record for record in stored.records if record.measure == "latency"]
        small = Step("flops", replace(check.scope, tokens="16", modes="forward").flags(head))
        here = (found or programme.run([small], head))[-1].environment
        fitting = [record for record in timed if not environment.differences(record.environment, here)]
        if fitting:
            new = _run(check, programme.times(check.scope, head, RUNS), head)
            rows += _rows(check, replace(stored, records=fitting), replace(stored, name="head", records=new))
            found = found + new
        else:
            differ = environment.differences(timed[-1].environment, here) if timed else []
            check.say(f"Times are not compared: the baseline has none of this environment ({'; '.join(differ)})."
                      if differ else "Times are not compared: the baseline has none.")
    return Outcome(Comparison(verdicts.ordered(rows)), stored, Side(head.name, "", found, []), found)


def against_revision(check: Check, head: Source, base: Source) -> Outcome:
    """Compare with another version on this machine: exact quantities of both, then times in interleaved rounds."""
    older, newer, rows = Side(base.name, "", [], []), Side(head.name, "", [], []), []
    found: list[Record] = []
    if check.exact:
        found = _run(check, programme.exact(check.scope, head, studies=check.studies), head)
        scope = programme.known(check.scope, base, head)
        there = _run(check, programme.exact(scope, base, studies=check.studies), base) if scope else []
        rows += _rows(check, replace(older, records=there), replace(newer, records=_exact_part(
            replace(newer, records=found), there).records))
    if check.times and not _failed(rows):
        pair = Pair(base, head, plan(check, head))
        timed = pair.compare(check.terms)
        rows += timed.rows
        found = found + pair.records(1)
    return Outcome(Comparison(verdicts.ordered(rows)), older, newer, found)


def plan(check: Check, head: Source) -> Plan:
    """The cases whose times are compared, and how."""
    scope = check.scope.timed()
    flags = {"attn": scope.attn or ",".join(programme.attentions(head)), "baseline": "none", "tokens": scope.tokens,
             "mode": scope.modes, "dtype": scope.dtype, "device": scope.device}
    config = configuration.load(None, flags={"sweep": flags, "process": {"threads": scope.threads}})
    return Plan(session.plan(config), asdict(config.process), config.attention, check.slice_ms, check.first, check.cap,
                on_round=lambda done, cases: check.say(f"Round {done}: {cases} cases."))


def _run(check: Check, steps: Sequence[Step], source: Source) -> list[Record]:
    return programme.run(list(steps), source, lambda step: check.say(f"{step.measure} of {source.name} ..."))


def _exact_part(side: Side, measured: Sequence[Record]) -> Side:
    """The side's exact records of those measures that the other side has too."""
    measures = {record.measure for record in measured}
    return replace(side, records=[r for r in side.records if r.measure in measures and not verdicts.is_time(r)])


def _rows(check: Check, base: Side, head: Side) -> list[verdicts.Row]:
    rows = verdicts.compare(base, head, check.terms).rows
    return [row for row in rows if row.head is not None or not check.narrowed]


def _failed(rows: Sequence[verdicts.Row]) -> bool:
    return any(row.verdict in verdicts.FAILURES for row in rows)
