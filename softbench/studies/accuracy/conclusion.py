"""From runs to answers: means over seeds with their intervals, differences to the baseline, and verdicts.

Seeds are the units. The difference of an attention is d = its accuracy - the baseline's, seed by seed, and the verdict
follows from it by the rule of `softbench compare`. Nothing is concluded where the baseline has not learned the task:
the interval of its mean, of one seed its value, then reaches down to what the best rule without attention reaches.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softbench.compare import rule
from softbench.contracts.study import Finding
from softbench.models import trivial
from softbench.records import Record
from softbench.studies.accuracy import learning
from softbench.studies.accuracy.learning import Subject

_VERDICTS = {rule.SLOWER: "better", rule.FASTER: "worse", rule.SAME: "same", rule.INCONCLUSIVE: "inconclusive"}
BASELINE, NOT_LEARNED = "baseline", "not learned"


@dataclass(frozen=True)
class Scored:
    """The accuracies that one attention reached, by seed; a guess for each run that diverged."""

    subject: Subject
    by_seed: Mapping[int, float]
    diverged: int
    records: Sequence[Record]

    def values(self, quantity: str) -> list[float]:
        """The values of a quantity over all runs."""
        return [record.value for record in self.records if record.quantity == quantity and record.value is not None]

    def detail(self, key: str) -> Any:
        """An entry that all runs agree in; None where no run has one."""
        return next((record.detail[key] for record in self.records if key in record.detail), None)

    def planned(self) -> int:
        """How many runs there were to be: those of all looks, but for those that the verdict did not need."""
        settings = self.subject.settings
        return max(settings.seeds, settings.max_seeds) - sum(r.status == "not_run" for r in self.records)

    def failure(self) -> Record | None:
        """A run that says why there is no score."""
        return next((r for r in self.records if r.value is None and r.status != "not_run"), None)


def score(subject: Subject, subjects: Sequence[Subject], seed: int, records: Sequence[Record]) -> list[Finding]:
    """A run with a further seed: of all attentions at the first look, then while a verdict is inconclusive."""
    runs = [record for record in records if record.coords.get("part") == "run"]
    if runs:
        verdicts = _verdicts([_scored(each, runs) for each in subjects])
        open_ones = [label for label, verdict in verdicts.items() if verdict == _VERDICTS[rule.INCONCLUSIVE]]
        if not open_ones or (subject is not subjects[0] and subject.spec.label not in open_ones):
            return [subject.finding("test_accuracy", None, "run", seed=seed, status="not_run",
                                    note="the verdict was clear without this seed")]
    return learning.score(subject, seed, [record for record in records if record.coords.get("part") == "rate"])


def conclude(subjects: Sequence[Subject], records: Sequence[Record]) -> list[Finding]:
    """The answers on one task: the first of the subjects is the baseline."""
    mine = [record for record in records if record.coords.get("data") == subjects[0].problem.label]
    scored = [_scored(subject, mine) for subject in subjects]
    rules = _rules(subjects[0])
    baseline = scored[0]
    floor = max(rules.values())
    learned = bool(baseline.by_seed) and _least(list(baseline.by_seed.values())) > floor
    verdicts = _verdicts(scored) if learned else {}
    findings = []
    for one in scored:
        first = BASELINE if one is baseline else NOT_LEARNED
        verdict = verdicts.get(one.subject.spec.label, first if learned or one is not baseline else NOT_LEARNED)
        findings += _answers(one, baseline, verdict, mine) + _curve(one)
    return findings + [_of_rule(subjects[0], name, value) for name, value in rules.items()]


def _scored(subject: Subject, records: Sequence[Record]) -> Scored:
    runs = [record for record in records if record.coords.get("part") in ("run", "point")
            and record.label == subject.spec.label]
    tested = [record for record in runs if record.quantity == "test_accuracy" and record.seed is not None]
    by_seed = {int(record.seed or 0): record.value if record.value is not None else subject.chance
               for record in tested if record.value is not None or record.status == "diverged"}
    return Scored(subject, by_seed, sum(record.status == "diverged" for record in tested), runs)


def _verdicts(scored: Sequence[Scored]) -> dict[str, str]:
    """The verdict on each attention that shares a seed with the baseline."""
    baseline, *others = scored
    differences = {one.subject.spec.label: _differences(one, baseline) for one in others}
    estimates = {label: rule.paired(values) for label, values in differences.items() if values}
    settings = baseline.subject.settings
    looks = rule.looks(settings.seeds, max(settings.seeds, settings.max_seeds))
    judged = rule.judge(list(estimates.values()), [settings.margin] * len(estimates), looks)
    return {label: _VERDICTS[verdict] for label, verdict in zip(estimates, judged, strict=True)}


def _differences(one: Scored, baseline: Scored) -> list[float]:
    return [value - baseline.by_seed[seed] for seed, value in one.by_seed.items() if seed in baseline.by_seed]


def _answers(one: Scored, baseline: Scored, verdict: str, records: Sequence[Record]) -> list[Finding]:
    """One attention's row: accuracy, difference, and what it cost."""
    subject, scores = one.subject, list(one.by_seed.values())
    failure = one.failure()
    if len(scores) == one.diverged:
        return [subject.finding("accuracy", None, "answer", status=failure.status if failure else "failed",
                                note=failure.note if failure else "no run was scored", detail={"verdict": ""})]
    common = {"verdict": verdict}
    planned = one.planned()
    remarks = [f"{one.diverged} of {len(scores)} runs diverged, and count as a guess" if one.diverged else "",
               f"{planned - len(scores)} of {planned} runs gave no score" if planned > len(scores) else "",
               _untried(subject, records),
               _edge(subject, records)]
    note = "; ".join(filter(None, remarks))
    detail = common | _ci95(scores) | {"steps": one.detail("steps")}
    mean = statistics.fmean(scores)
    findings = [subject.finding("accuracy", mean, "answer", samples=scores, detail=detail, note=note),
                subject.finding("error_rate", 1 - mean, "answer", detail=common | _ci95([1 - s for s in scores]))]
    if one is not baseline and (differences := _differences(one, baseline)):
        findings.append(subject.finding("difference", statistics.fmean(differences), "answer", samples=differences,
                                        detail=common | _ci95(differences)))
    for name, key in (("learning_rate", "lr"), ("parameters", "parameters")):
        if (value := one.detail(key)) is not None:
            findings.append(subject.finding(name, float(value), "answer", detail=common))
    if seconds := one.values("train_time"):
        findings.append(subject.finding("train_time", None, "answer", unit="s", samples=seconds, detail=common))
    return findings + [subject.finding(record.quantity, record.value, "answer", unit=record.unit,
                                       samples=record.samples, status=record.status, note=record.note, detail=common)
                       for record in records
                       if record.coords.get("part") == "cost" and record.label == subject.spec.label]


def _untried(subject: Subject, records: Sequence[Record]) -> str:
    """A remark where a run that was to choose the learning rate left no word of it."""
    rates = subject.settings.lrs.count(",") + 1
    lost = rates - sum(r.coords.get("part") == "rate" and r.label == subject.spec.label for r in records)
    return f"{lost} of {rates} learning rates were not tried" if lost else ""


def _edge(subject: Subject, records: Sequence[Record]) -> str:
    """A remark where the best learning rate is the last tried on one side, and another beyond it may be better."""
    reached = sorted((float(record.coords["lr"]), record.value or 0.0) for record in records
                     if record.coords.get("part") == "rate" and record.label == subject.spec.label)
    for place, (first, second) in (("smallest", reached[:2]), ("largest", reached[:-3:-1])) if len(reached) > 1 else ():
        if first[1] == max(value for _, value in reached) and first[1] > second[1] + subject.settings.margin:
            return f"its best learning rate, {first[0]:g}, is the {place} that was tried"
    return ""


def _curve(one: Scored) -> list[Finding]:
    """Means over seeds of the accuracy on validation samples, at each step at which all runs were looked at."""
    by_step: dict[int, list[float]] = {}
    seeds = {record.seed for record in one.records if record.coords["part"] == "point"}
    for record in one.records:
        if record.coords["part"] == "point" and record.value is not None:
            by_step.setdefault(int(record.coords["steps"]), []).append(record.value)
    return [one.subject.finding("curve", statistics.fmean(values), "curve", coords={"steps": step}, samples=values,
                                detail=_ci95(values)) for step, values in sorted(by_step.items())
            if len(values) == len(seeds)]


def _rules(subject: Subject) -> dict[str, float]:
    """The accuracies of rules without attention."""
    problem = subject.problem
    return {"guessing": subject.chance} | trivial.scores(problem.open("train"), problem.open("test"))


def _of_rule(subject: Subject, name: str, value: float) -> Finding:
    coords = {"data": subject.problem.label, "part": "rule", "rule": name}
    note = "this rule reads the task: no attention is needed for it" if value > (1 + subject.chance) / 2 else ""
    return Finding(quantity="accuracy", value=value, label=f"({name})", coords=coords, detail={"verdict": "rule"},
                   note=note)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    return rule.paired(values).interval()


def _least(values: Sequence[float]) -> float:
    """The lower end of the interval of the mean; of one value, which has none, that value."""
    return _interval(values)[0] if len(values) > 1 else values[0]


def _ci95(values: Sequence[float]) -> dict[str, Any]:
    return {"ci95": list(_interval(values))} if len(values) > 1 else {}
