"""Says what a search found, in words and numbers: the answer, every probe, and the bracket as it closed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from softbench.bench import sweep
from softbench.bench.costs import disturbance
from softbench.contracts.study import Finding
from softbench.records import UNFINISHED
from softbench.studies._over_n.grids import Grid
from softbench.studies.crossover.location import Crossing, locate
from softbench.studies.crossover.meters import Pair
from softbench.studies.crossover.search import AHEAD, ATTENTION, BEHIND, Bracket, Probe, Search

ANSWER, RATIO, BRACKET = "crossover", "ratio", "bracket"
_ALONE = "of one process: others may differ by more than the interval"


@dataclass(frozen=True)
class Answer:
    """Says what came of one comparison.

    Attributes:
        kind: crossing, until, several, always, never, baseline_oom, at_most, at_least, or a status without a value.
        tokens: N*, or the length that the words name.
        interval: its 95 % interval, where it has one.
        words: what tables write.
        crossings: all of them, where there are several.
    """

    kind: str
    tokens: float | None
    words: str
    interval: tuple[float, float] | None = None
    crossings: tuple[Crossing, ...] = ()
    status: str = "ok"
    note: str = ""


def conclude(search: Search, baseline: str) -> Answer:
    """The answer of a search that is over."""
    probes = search.ordered
    ran = [p for p in probes if p.estimate]
    decided = [p for p in probes if p.sign]
    if not ran and not decided:
        return _without(search, probes)
    if not decided:
        return _undecided(ran, _ends(search, probes, baseline))
    closed = [b for b in search.brackets if b.low and b.high]
    measured = [b for b in closed if b.high and not search.probes[b.high].gone]
    crossings = tuple(locate(b, search.around(b), search.grids, exact=search.meter.exact, again=search.again)
                      for b in measured)
    note = _ends(search, probes, baseline)
    if len(crossings) > 1:
        words = "several: " + ", ".join(f"{'up to' if c.rising else 'from'} {_written(c)}" for c in crossings)
        last = crossings[-1]
        return Answer("several", last.tokens, words, (last.low, last.high), crossings, note=note)
    if crossings:
        only, note = crossings[0], "; ".join(filter(None, [note, _against(measured[0], ran, crossings[0])]))
        kind, words = ("until", f"only up to {_written(only)}") if only.rising else ("crossing", _written(only))
        return Answer(kind, only.tokens, words, (only.low, only.high), crossings, note=note)
    gone = next((p for p in probes if p.gone), None)
    if gone and any(p.sign == BEHIND for p in ran):
        return Answer("baseline_oom", gone.tokens, f"{baseline} {_failure(gone)} first, at {gone.tokens:,}", note=note)
    if search.brackets:
        low, high = search.brackets[0].low, search.brackets[0].high
        if high:
            return Answer("at_most", high, f"at most {high:,}", note=note)
        return Answer("at_least", low, f"above {low:,}" if low else "", note=note)
    if decided[0].sign == AHEAD:
        first = decided[0].tokens
        return Answer("always", first, "always" if first <= search.grids.low * 1.1 else f"always (from {first:,})",
                      note=note)
    last_ran = max(p.tokens for p in ran)
    if search.ended:
        return Answer("at_least", last_ran, f"above {last_ran:,}", note=note)
    return Answer("never", last_ran, f"never up to {last_ran:,}", note=note)


def findings(search: Search, pair: Pair, quantity: str, baseline: str) -> list[Finding]:
    """The answer first, then the probes in ascending order, then its bracket (the last one) as it closed."""
    answer = conclude(search, baseline)
    coords = {"compared": quantity, "baseline": baseline}
    detail: dict[str, Any] = {"answer": answer.kind, "printed": answer.words, "probes": len(search.probes)}
    if answer.interval:
        detail["ci95"] = list(answer.interval)
    if len(answer.crossings) > 1:
        detail["crossings"] = [[c.tokens, c.low, c.high, "up to" if c.rising else "from"] for c in answer.crossings]
    if answer.crossings:
        detail |= {"fitted": answer.crossings[-1].fitted, "processes": answer.crossings[-1].processes}
    if search.ended or search.missed:
        detail[UNFINISHED] = True
    disturbed = disturbance({"foreign_cpu": max(pair.foreign.values(), default=0.0)}) if quantity == "latency" else ""
    alone = _ALONE if answer.crossings and quantity == "latency" and search.terms.processes == 1 else ""
    findings = [_finding(pair, ANSWER, answer.tokens, coords, detail=detail, status=answer.status,
                         note="; ".join(filter(None, [answer.note, alone, disturbed])))]
    findings += [_probe(pair, probe, coords, [line[probe.tokens] for line in search.again if probe.tokens in line])
                 for probe in search.ordered]
    course = search.brackets[-1].course if search.brackets else []
    return findings + [
        _finding(pair, BRACKET, math.sqrt(low * high), coords | {"step": step}, detail={"ci95": [low, high]})
                       for step, (low, high) in enumerate(course)]


def not_begun(pair: Pair, quantity: str, baseline: str, budget: float) -> list[Finding]:
    """Make the finding of a comparison that the budget left nothing for."""
    return [_finding(pair, ANSWER, None, {"compared": quantity, "baseline": baseline}, status="not_run",
                     detail={"answer": "not_run", UNFINISHED: True},
                     note=f"the budget of {budget:g} s was over; --resume with --out goes on")]


def _probe(pair: Pair, probe: Probe, coords: dict[str, Any], again: Sequence[Sequence[float]]) -> Finding:
    detail: dict[str, Any] = {"rounds": len(probe.differences), "sign": probe.sign}
    if probe.estimate is None:
        assert probe.stopped is not None
        who = "" if probe.stopped.side == ATTENTION else f"{coords['baseline']}: "
        return _finding(pair, RATIO, None, coords, probe.grid, status=probe.stopped.status,
                        note=who + probe.stopped.note, detail=detail)
    if len(probe.differences) > 1:
        detail["ci95"] = [math.exp(min(bound, 700.0)) for bound in probe.interval]
    if again:
        detail["again"] = [[math.exp(d) for d in differences] for differences in again]
    if (share := pair.foreign.get(probe.tokens)) is not None:
        detail["foreign_cpu"] = share
    return _finding(pair, RATIO, math.exp(probe.estimate.mean), coords, probe.grid, detail=detail,
                    samples=[math.exp(d) for d in probe.differences])


def _finding(pair: Pair, quantity: str, value: float | None, coords: dict[str, Any], grid: Grid | None = None,
             **more: Any) -> Finding:
    nowhere: dict[str, Any] = {} if grid else {"rows": None, "cols": None}
    place = sweep.place(pair.job(ATTENTION, grid or (1, 1)))
    return Finding(**place | nowhere | {"coords": coords, "quantity": quantity, "value": value} | more)


def _without(search: Search, probes: Sequence[Probe]) -> Answer:
    """No length could be compared: the attention does not run, no grid suits it, or the budget was too small."""
    failed = next((p.stopped for p in probes if p.stopped), None)
    if failed:
        return Answer(failed.status, None, "", status=failed.status, note=failed.note)
    if search.ended:
        return Answer("not_run", None, "", status="not_run", note="the budget was too small for one comparison")
    span = f"from {search.grids.low:,} to {search.grids.high:,} tokens"
    return Answer("unsupported", None, "", status="unsupported", note=f"no grid {span} suits both attentions")


def _undecided(ran: Sequence[Probe], ends: str) -> Answer:
    low, high = (f(math.exp(min(bound, 700.0)) for p in ran for bound in p.interval) for f in (min, max))
    lengths = f"from {ran[0].tokens:,} to {ran[-1].tokens:,} tokens" if len(ran) > 1 else f"at {ran[0].tokens:,} tokens"
    apart = f"the two cannot be told apart {lengths}: all ratios within {low:.3g} to {high:.3g}"
    return Answer("inconclusive", None, "", status="inconclusive", note="; ".join(filter(None, [apart, ends])))


def _ends(search: Search, probes: Sequence[Probe], baseline: str) -> str:
    """Tell the reader where and why the search stopped."""
    notes = []
    if search.missed:
        notes.append(f"in {1 + len(search.again)} of {search.terms.processes} processes: {search.missed}")
    if search.ended and not search.narrowed:
        notes.append(f"the budget ended the search at {max(p.tokens for p in probes):,} tokens"
                     if not search.brackets else "the budget ended the search before the bracket was narrow")
    for probe in probes:
        if probe.stopped and probe.stopped.status != "timeout":
            who = baseline if probe.gone else "it"
            notes.append(f"{who} {_failure(probe)} at {probe.tokens:,} ({probe.stopped.note})")
            break
    equal = [p.tokens for p in probes if search.meter.exact and p.estimate and p.estimate.mean == 0]
    if equal:
        notes.append(f"exactly as much at {', '.join(f'{tokens:,}' for tokens in equal)}")
    return "; ".join(notes)


def _against(bracket: Bracket, ran: Sequence[Probe], crossing: Crossing) -> str:
    """The lengths at which a probe outside the bracket says the opposite of a single crossing."""
    below, above = (AHEAD, BEHIND) if crossing.rising else (BEHIND, AHEAD)
    others = [p for p in ran if (p.tokens < (bracket.low or 0) and p.sign == -below)
              or (p.tokens > (bracket.high or math.inf) and p.sign == -above)]
    return "; ".join(f"costs {'less' if sign == AHEAD else 'more'} at"
                     f" {', '.join(f'{p.tokens:,}' for p in others if p.sign == sign)} all the same"
                     for sign in dict.fromkeys(p.sign for p in others))


def _failure(probe: Probe) -> str:
    assert probe.stopped is not None
    return "out of memory" if probe.stopped.status == "oom" else probe.stopped.status


def _written(crossing: Crossing) -> str:
    return f"{crossing.tokens:,.0f} [{crossing.low:,.0f}, {crossing.high:,.0f}]"
