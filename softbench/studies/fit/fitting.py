"""Searches the largest size of one attention, with trials in child processes as probes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from softbench import parsing
from softbench.bench import trial as _trial
from softbench.bench.trial import Trial
from softbench.case import MAX_TOKENS, Case, Shape, most_square
from softbench.contracts.study import Finding, Task
from softbench.errors import Unsupported
from softbench.measures import latency
from softbench.stats import median
from softbench.studies._over_n.budget import Budget, parse
from softbench.studies._over_n.grids import Grids
from softbench.studies._over_n.setting import Setting, check
from softbench.studies.fit.inversion import Answer, Sizes, largest
from softbench.studies.fit.settings import Settings
from softbench.subjects import OneAttention, probe

TOKENS, BATCH = "tokens", "batch"
MEMORY, LATENCY = "memory", "latency"
_MACHINE = "this machine's memory"
_SLOW = 20.0  # times the budget of latency, that a trial may take at least


def tasks(settings: Settings) -> list[Task]:
    """Plan one task for each attention, mode and dtype.

    Raises:
        UsageError: no budget, an unknown name or a bad value, or sizes that end before they begin.
    """
    budget = parse(settings.memory, settings.latency)
    tokens = parsing.count(settings.tokens, "--tokens")
    lengths = parsing.token_range(settings.min_tokens, settings.max_tokens)
    (low, high), other = (lengths, settings.batch) if settings.vary == TOKENS else ((1, settings.max_batch), tokens)
    setting = check(settings)
    timing = latency.Settings(rep=settings.rep, warmup=settings.rep / 5, rounds=1)
    question = Question(budget, settings.vary, low, high, other, settings.precision, timing, settings.timeout)
    words = (f"{settings.vary} {low}..{high} beside {other} memory={settings.memory} latency={settings.latency}"
             f" precision={settings.precision:g} rep={settings.rep:g} timeout={settings.timeout:g}")
    return [Task(f"{subject.spec.label} {setting.name(point)} {words}",
                 Fitting(setting, subject, point, question).run, at=setting.at(point, subject))
            for point in setting.points for subject in setting.subjects]


@dataclass(frozen=True)
class Question:
    """Asks for sizes from `low` to `high` of `vary`, beside `other` of the one that does not vary."""

    budget: Budget
    vary: str
    low: int
    high: int
    other: int
    precision: float
    timing: latency.Settings
    timeout: float


@dataclass
class Fitting:
    """The search for one attention at one point. `trials` holds those of each size, by the budget they test."""

    setting: Setting
    subject: OneAttention
    point: tuple[str, str]
    question: Question
    trials: dict[int, dict[str, Trial]] = field(default_factory=dict)
    short: int | None = None

    def run(self) -> list[Finding]:
        """All trials, and the answer.

        Raises:
            WrongResult: the attention's result is wrong, so that nothing is said about its cost.
        """
        question = self.question
        first = self._sizes().at(question.low)
        if first is None:
            raise Unsupported(f"no {question.vary} from {question.low:,} to {question.high:,} that it can run at:"
                              f" {self._misfit(question.low)}")
        subject, small = self.subject.probed(self._case(first))
        probe.probe(small, subject)
        answer = largest(self._sizes(), self._exceeds, question.precision)
        assert answer is not None
        return [*(finding for size in answer.tried for finding in self._probes(size)), *self._answers(answer)]

    def _sizes(self) -> Sizes:
        low, high = self.question.low, self.question.high
        between: Callable[[float, float, float], int | None] = _whole
        if self.question.vary == TOKENS:
            grids = Grids(low, high, lambda grid: self._misfit(grid[0] * grid[1], grid))

            def between(size: float, above: float, below: float) -> int | None:
                grid = grids.nearest(size, above, below)
                return grid[0] * grid[1] if grid else None

        return Sizes(low, high, between)

    def _misfit(self, size: int, grid: tuple[int, int] | None = None) -> str:
        return self.subject.plugin.misfit(self._shape(size, grid))

    def _shape(self, size: int, grid: tuple[int, int] | None = None) -> Shape:
        question = self.question
        tokens, batch = (size, question.other) if question.vary == TOKENS else (question.other, size)
        return self.setting.shape(batch, grid or most_square(tokens))

    def _case(self, size: int) -> Case:
        return self.setting.case(self.subject, self.point, self._shape(size))

    def _exceeds(self, size: int) -> str:
        """Say what the size exceeds; "" where it fits. Memory is tried first: what does not fit need not be timed."""
        budget, question, case = self.question.budget, self.question, self._case(size)
        here = self.trials.setdefault(size, {})
        if budget.memory is not None:
            free = _trial.free(case.device)
            self.short = free if free is not None and free < budget.memory else None
            trial = here[MEMORY] = _trial.memory(case, self.subject, self.short or budget.memory, question.timeout)
            if trial.status != "ok":
                return (_MACHINE if self.short else MEMORY) if trial.status == "oom" else _why(trial)
        if budget.latency is not None:
            patience = max(question.timeout, _SLOW * budget.latency)
            trial = here[LATENCY] = _trial.seconds(case, self.subject, question.timing, budget.latency, patience)
            if trial.status != "ok":
                return {"timeout": LATENCY, "oom": _MACHINE}.get(trial.status) or _why(trial)
            if median(trial.samples) > budget.latency:
                return LATENCY
        return ""

    def _probes(self, size: int) -> list[Finding]:
        shape, findings = self._shape(size), []
        for budgeted, trial in self.trials[size].items():
            quantity, unit = (f"{budgeted}_tried", "B" if budgeted == MEMORY else "s")
            value = trial.held if budgeted == MEMORY else median(trial.samples) if trial.samples else None
            slow = budgeted == LATENCY and trial.status == "timeout"
            note = f"stopped: {trial.note}" if slow else trial.note
            findings.append(self._finding(
                quantity, value, unit=unit, samples=trial.samples, status="not_run" if slow else trial.status,
                note=note, shape=shape, coords={"part": "trial"}, detail={"fits": self._fits(budgeted, trial)}))
        return findings

    def _fits(self, budgeted: str, trial: Trial) -> bool:
        latest = self.question.budget.latency
        return trial.status == "ok" and (budgeted == MEMORY or latest is None or median(trial.samples) <= latest)

    def _answers(self, answer: Answer) -> list[Finding]:
        question = self.question
        if not answer.size and answer.binds not in (MEMORY, LATENCY, _MACHINE):
            return [self._nothing(answer)]
        what = f"{question.vary}" if question.vary == TOKENS else f"of {question.other:,} tokens"
        if not answer.size:
            binds = f"{answer.binds}: not even {question.low:,} {what}"
        elif not answer.binds:
            binds = f"nothing, up to {answer.size:,}"
        else:
            binds = answer.binds
        note = ""
        if self.short is not None and answer.binds == _MACHINE:
            note = f"only {self.short >> 20:,} MiB are free here, less than the budget: the answer is for them"
        detail: dict[str, Any] = {"binds": binds, "above": answer.above, "tried": answer.tried}
        findings = [self._finding(f"largest_{question.vary}", float(answer.size), detail=detail, note=note)]
        for budgeted, trial in self.trials.get(answer.size, {}).items():
            value = trial.held if budgeted == MEMORY else median(trial.samples)
            findings.append(self._finding(f"{budgeted}_there", value, unit="B" if budgeted == MEMORY else "s",
                                          samples=trial.samples, detail={"binds": binds}))
        return findings

    def _nothing(self, answer: Answer) -> Finding:
        """No answer, where not even the smallest size could be tried: that is no budget exceeded."""
        trial = next(trial for trial in self.trials[answer.tried[-1]].values() if trial.status != "ok")
        return self._finding(f"largest_{self.question.vary}", None, status=trial.status, note=trial.note,
                             detail={"binds": answer.binds, "above": answer.above, "tried": answer.tried})

    def _finding(self, quantity: str, value: float | None, *, shape: Shape | None = None, unit: str = "1",
                 coords: dict[str, Any] | None = None, **more: Any) -> Finding:
        question = self.question
        fixed = {"tokens_each": question.other} if question.vary == BATCH else {}
        batch = question.other if question.vary == TOKENS else 1
        at = shape or self.setting.shape(batch)
        return self.setting.finding(
            self.subject, self.point, at, there=shape is not None, quantity=quantity, value=value, unit=unit,
            coords={"vary": question.vary, **fixed, **question.budget.coords, "part": "answer", **(coords or {})},
            **more)


def _whole(size: float, above: float, below: float) -> int | None:
    """Return the whole number nearest to a size, strictly between two others."""
    low, high = math.floor(above) + 1, math.ceil(below) - 1
    return min(max(round(size), low), high) if low <= high else None


def _why(trial: Trial) -> str:
    return {"timeout": "the time of a trial"}.get(trial.status, trial.status)


MOST = {TOKENS: MAX_TOKENS, BATCH: 1 << 20}
