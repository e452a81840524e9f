"""The check: this checkout against a stored baseline or a git revision; exact quantities first, then times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from softbench import config as configuration
from softbench import records
from softbench.bench import session
from softbench.compare import sides, verdicts
from softbench.compare.sides import Side
from softbench.compare.verdicts import INCONCLUSIVE, Comparison, Row, Terms
from softbench.errors import ResultsError, SoftbenchError
from softbench.gate import programme
from softbench.gate.ending import Ending
from softbench.gate.paired import Pair, Plan
from softbench.gate.programme import Scope, Step
from softbench.gate.source import Source
from softbench.machine import environment
from softbench.records import About, Origin, Point, Reading, Record

RUNS = 3  # recordings of the times on each side, where they are not taken side by side


@dataclass(frozen=True)
class Check:
    """Holds what is checked, and who is told how far it is.

    Attributes:
        narrowed: the scope is not the whole programme, so that cases which only the base has are no concern.
        exact, times: which half is wanted.
        first, cap, slice_ms, ending: see `softbench.gate.paired.Plan`.
        keep: takes what is measured of this checkout, a part at a time.
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
    ending: Ending = field(default_factory=Ending)
    say: Callable[[str], None] = field(default=lambda text: None)
    keep: Callable[[list[Record]], None] = field(default=lambda rows: None)


@dataclass
class Outcome:
    """Holds the verdicts so far on two sides, named as in tables, and what was measured of this checkout.

    Attributes:
        ended: why it is not all there: the signal that came, or how the tool failed.
    """

    base: Side
    head: Side
    rows: list[Row] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    ended: SoftbenchError | None = None

    @property
    def comparison(self) -> Comparison:
        """Return all verdicts, the most serious first."""
        return Comparison(verdicts.ordered(self.rows))

    @contextmanager
    def kept(self, ending: Ending) -> Iterator[None]:
        """A block that may end early: what it has found by then stays."""
        ending.hold()
        try:
            yield
        except SoftbenchError as error:
            if not self.rows and not self.records:
                raise
            self.ended = error
        self.ended = ending.error or self.ended


def against(check: Check, head: Source, base: Source | Side) -> Outcome:
    """Compare this version with another one, or with stored baselines."""
    return against_stored(check, head, base) if isinstance(base, Side) else against_revision(check, head, base)


def stored(folder: Path) -> Side:
    """Return the baselines in a folder.

    Raises:
        ResultsError: there is none.
    """
    if not any(folder.glob("*.jsonl")):
        raise ResultsError(f"No baseline in {folder}. Write one with `softbench baseline update`, or compare with a"
                           " revision: `softbench check --base origin/main`.")
    return sides.load(str(folder), str(folder))


def against_stored(check: Check, head: Source, base: Side) -> Outcome:
    """Compare with stored baselines; times only with those of this very environment."""
    outcome = Outcome(base, Side(head.name, "", [], []))
    with outcome.kept(check.ending):
        for measure, steps in _by_measure(check, head).items():
            stored = [record for record in base.records if record.measure == measure and not verdicts.is_time(record)]
            _judge(check, outcome, measure, stored, _run(check, outcome, steps, head))
        if check.times and not _failed(outcome.rows):
            _stored_times(check, outcome, head)
    return outcome


def _stored_times(check: Check, outcome: Outcome, head: Source) -> None:
    timed = [record for record in outcome.base.records if record.measure == "latency"]
    small = Step("flops", replace(check.scope, tokens="16", modes="forward").flags(head))
    measured = outcome.records or programme.run([small], head, ending=check.ending)
    if not measured:
        return
    here = measured[-1].environment
    fitting = [record for record in timed if not environment.differences(record.environment, here)]
    if fitting:
        new = _run(check, outcome, programme.times(check.scope, head, RUNS), head)
        _judge(check, outcome, "latency", fitting, new)
    else:
        differ = environment.differences(timed[-1].environment, here) if timed else []
        check.say(f"Times are not compared: the baseline has none of this environment ({'; '.join(differ)})."
                  if differ else "Times are not compared: the baseline has none.")


def against_revision(check: Check, head: Source, base: Source) -> Outcome:
    """Compare with another version on this machine: exact quantities of both, then times in interleaved rounds."""
    outcome = Outcome(Side(base.name, "", [], []), Side(head.name, "", [], []))
    pair = Pair(base, head, plan(check, head)) if check.times else None  # now: it says what is wrong with the scope
    scope = programme.known(check.scope, base, head)
    with outcome.kept(check.ending):
        theirs = _by_measure(replace(check, scope=scope), base) if scope else {}
        for measure, steps in _by_measure(check, head).items():
            new = _run(check, outcome, steps, head)
            if measure in theirs:
                old = programme.run(theirs[measure], base, _teller(check, base), check.ending)
                there = {record.measure for record in old}
                _judge(check, outcome, measure, old, [r for r in new if r.measure in there and not verdicts.is_time(r)])
        if pair and not _failed(outcome.rows):
            try:
                outcome.rows += pair.compare(check.terms).rows
            finally:
                _keep(check, outcome, pair.records(1))
    return outcome


def plan(check: Check, head: Source) -> Plan:
    """The cases whose times are compared, and how."""
    scope = check.scope.timed()
    flags = {"attn": scope.attn or ",".join(programme.attentions(head)), "baseline": "none", "tokens": scope.tokens,
             "mode": scope.modes, "dtype": scope.dtype, "device": scope.device}
    config = configuration.load(None, flags={"sweep": flags, "process": {"threads": scope.threads}})
    return Plan(session.plan(config), asdict(config.process), config.attention, check.slice_ms, check.first, check.cap,
                ending=check.ending, on_round=lambda done, cases: check.say(f"Round {done}: {cases} cases."))


def _by_measure(check: Check, source: Source) -> dict[str, list[Step]]:
    """The exact steps of a version; those of one measure, of attentions and of models, are compared together."""
    by_measure: dict[str, list[Step]] = {}
    for step in programme.exact(check.scope, source, studies=check.studies) if check.exact else ():
        by_measure.setdefault(step.measure, []).append(step)
    return by_measure


def _run(check: Check, outcome: Outcome, steps: list[Step], source: Source) -> list[Record]:
    """Run the steps, as far as they come, and keep at once what they find."""
    return _keep(check, outcome, programme.run(steps, source, _teller(check, source), check.ending))


def _keep(check: Check, outcome: Outcome, rows: list[Record]) -> list[Record]:
    outcome.records += rows
    if rows:
        check.keep(rows)
    return rows


def _teller(check: Check, source: Source) -> Callable[[Step], None]:
    return lambda step: check.say(f"{step.measure} of {source.name} ...")


def _judge(check: Check, outcome: Outcome, measure: str, base: list[Record], head: list[Record]) -> None:
    """Add the verdicts on one measure; what one side alone has is open where all ended before the other's turn."""
    rows = verdicts.compare(replace(outcome.base, records=base), replace(outcome.head, records=head), check.terms).rows
    rows = [row for row in rows if row.head is not None or not check.narrowed]
    if check.ending.over:
        why = check.ending.reason
        rows = [row if row.base and row.head else replace(row, verdict=INCONCLUSIVE, note=why) for row in rows]
        nothing = Reading(measure, status=verdicts.NOT_THERE, note=why)
        rows = rows or [Row(None, records.make(measure, nothing, About(), Point(), Origin()), INCONCLUSIVE, note=why)]
    outcome.rows += rows


def _failed(rows: Sequence[Row]) -> bool:
    return any(row.verdict in verdicts.FAILURES for row in rows)
