"""Paired timing: two versions in two processes, side by side, in rounds of ABBA order; new processes in every round.

A round starts a worker for each version, and for each case asks one side for samples, then the other for twice as many
seconds, then the first again: whatever the machine drifts by within a round hits both alike. The side that begins
alternates. New processes make rounds independent also in what a process keeps for its life, such as where its memory
lies, which would otherwise pass for a difference between the versions.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from softbench.bench.sweep import Job, make_record
from softbench.compare import rule, verdicts
from softbench.compare.rule import Settled
from softbench.compare.verdicts import Comparison, Row, Terms
from softbench.contracts.measure import Reading
from softbench.errors import SoftbenchError
from softbench.gate import programme
from softbench.gate.ending import Ended, Ending
from softbench.gate.source import Source
from softbench.gate.worker import PROTOCOL
from softbench.processes import child
from softbench.records import Record
from softbench.stats import median

_START_SECONDS, _GRACE_SECONDS = 120.0, 120.0


class WorkerFailed(SoftbenchError):
    """A worker did not come up or did not understand: the tool has failed, and no version is slower for it."""


@dataclass(frozen=True)
class Plan:
    """Says what is timed, and how.

    Attributes:
        jobs: the cases, as this version plans them.
        process: keys of [process] for the workers.
        attention: default options of attentions, from bench.toml.
        slice_ms: milliseconds of samples in each of the four places of a round.
        first, cap: rounds before the first look, and the most rounds.
        timeout: seconds that building, checking or a slice of one case may take.
        ending: when rounds end though cases are open.
    """

    jobs: list[Job]
    process: dict[str, Any]
    attention: dict[str, dict[str, Any]] = field(default_factory=dict)
    slice_ms: float = 100.0
    first: int = 6
    cap: int = 24
    timeout: float = 60.0
    ending: Ending = field(default_factory=Ending)
    on_round: Callable[[int, int], None] = field(default=lambda done, cases: None)


@dataclass
class _Course:
    """Holds what is known of one case on one side so far."""

    samples: list[float] = field(default_factory=list)
    per_round: list[int] = field(default_factory=list)
    answer: dict[str, Any] = field(default_factory=dict)
    foreign: list[float] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.answer.get("status") == "ok"

    @property
    def broken(self) -> bool:
        """True where the case was tried and does not run."""
        return bool(self.answer) and not self.ok


class Pair:
    """Two versions of the package, and everything that has been measured of them."""

    def __init__(self, base: Source, head: Source, plan: Plan) -> None:
        self.sources, self.plan = (base, head), plan
        self.courses = [(_Course(), _Course()) for _ in plan.jobs]
        self.environments: list[dict[str, Any]] = [{}, {}]
        self.rounds = 0

    def measure(self, cases: list[int], rounds: int) -> list[list[float]]:
        """Further rounds of these cases; for each case the differences of its rounds, none where it does not run.

        There are fewer where all ends before; the case that was at work then has no difference of that round.
        """
        differences: list[list[float]] = [[] for _ in cases]
        for _ in range(rounds):
            if not cases or self.plan.ending.over:
                break
            with contextlib.suppress(Ended), self._workers() as workers:
                for place, case in enumerate(cases):
                    difference = self._round(case, workers)
                    if difference is not None:
                        differences[place].append(difference)
                self.rounds += 1
                self.plan.on_round(self.rounds, len(cases))
        return differences

    def settle(self, terms: Terms) -> list[Settled]:
        """Rounds until every case is decided or the cap is reached."""
        return rule.settle(self.measure, lambda case: self._margin(case, terms), len(self.plan.jobs), self.plan.first,
                           self.plan.cap)

    def compare(self, terms: Terms) -> Comparison:
        """Measure, and give a row for each case, as `softbench compare` does for files."""
        settled = self.settle(terms)
        rows = [self._row(case, outcome) for case, outcome in enumerate(settled)]
        return Comparison(verdicts.ordered(rows))

    def records(self, side: int) -> list[Record]:
        """Make records of all cases of one side that gave a time or a reason for none."""
        return [self.record(case, side) for case, courses in enumerate(self.courses)
                if courses[side].samples or courses[side].broken]

    def record(self, case: int, side: int) -> Record:
        """Make a record of what one side (0 base, 1 head) measured of a case."""
        course, source = self.courses[case][side], self.sources[side]
        answer, tried = course.answer, course.samples or course.broken
        detail = {"samples_per_round": course.per_round, "group": "paired", "foreign_cpu_per_round": course.foreign}
        reading = Reading("latency", "s", course.samples, status=answer["status"] if tried else verdicts.NOT_THERE,
                          note=answer.get("note", ""), detail=detail)
        environment = self.environments[side] | {"commit": source.commit, "dirty": source.dirty}
        record = make_record("latency", self.plan.jobs[case], reading, environment)
        return replace(record, impl=answer.get("impl") or None, options=answer.get("options", {}),
                       started=datetime.now(UTC).isoformat(timespec="seconds"))

    def _workers(self) -> _Workers:
        workers = _Workers(self.sources, self.plan, first=self.rounds % 2)
        self.environments = [worker.environment for worker in workers.both]
        return workers

    def _ask(self, side: int, workers: _Workers, request: dict[str, Any]) -> dict[str, Any]:
        """A worker's answer; one that its case has ended is replaced, and the case has failed on that side."""
        try:
            return workers.both[side].ask(request, self.plan.timeout)
        except _Died as died:
            workers.replace(side)
            status, note = died.args
            return {"status": status, "note": note, "samples": [], "impl": "", "options": {}}

    def _round(self, case: int, workers: _Workers) -> float | None:
        """One ABBA round of one case; the difference of the log medians, head less base. Raises Ended."""
        if self.plan.ending.over:
            raise Ended
        courses = self.courses[case]
        probe = not courses[0].answer
        for side in (0, 1):
            answer = self._ask(side, workers, {"prepare": {
                "sweep": describe(self.plan.jobs[case]), "probe": probe, "attention": self.plan.attention}})
            if probe or answer["status"] != "ok":
                courses[side].answer = answer
        if not (courses[0].ok and courses[1].ok):
            return None
        one, other = (0, 1) if workers.first == 0 else (1, 0)
        timed: tuple[list[float], list[float]] = ([], [])
        for side, share in ((one, 1), (other, 2), (one, 1)):
            answer = self._ask(side, workers, {"time": share * self.plan.slice_ms / 1e3})
            if not answer["samples"]:
                courses[side].answer = courses[side].answer | {"status": answer.get("status", "failed"),
                                                               "note": answer.get("note", "no samples")}
                return None
            timed[side].extend(answer["samples"])
            if answer.get("foreign_cpu") is not None:
                courses[side].foreign.append(answer["foreign_cpu"])
        for course, samples in zip(courses, timed, strict=True):
            course.samples += samples
            course.per_round.append(len(samples))
        return math.log(median(timed[1]) / median(timed[0]))

    def _margin(self, case: int, terms: Terms) -> float:
        machine = str(self.environments[1].get("machine"))
        seconds = median(self.courses[case][0].samples)
        return rule.margin(terms.threshold, terms.noise.get(machine, 0.0), terms.floor, seconds)

    def _row(self, case: int, outcome: Settled) -> Row:
        base, head = self.record(case, 0), self.record(case, 1)
        courses, ending = self.courses[case], self.plan.ending
        if outcome.estimate is None and ending.over and not all(course.answer for course in courses):
            return Row(base, head, rule.INCONCLUSIVE, note=ending.reason)
        if outcome.estimate is None or not all(course.ok for course in courses):
            # A side that runs has no time all the same, as the other side has none to stand beside it.
            ran = [replace(record, status=course.answer["status"])
                   for record, course in zip((base, head), courses, strict=True)]
            return verdicts.not_both_ran(*ran)
        looks = rule.looks(self.plan.first, self.plan.cap)
        low, high = outcome.estimate.interval(rule.LEVEL / looks)
        note = f"impl {base.impl}, now {head.impl}" if base.impl != head.impl else ""
        rounds = len(outcome.differences)
        if outcome.verdict == rule.INCONCLUSIVE and rounds < self.plan.cap:
            note = "; ".join(filter(None, [note, ending.reason]))
        return Row(base, head, outcome.verdict, math.exp(outcome.estimate.mean), math.exp(low), verdicts.exp(high),
                   math.expm1(outcome.margin), f"{rounds} pair{'s' * (rounds != 1)}", note,
                   verdicts.times(verdicts.rounds(base), verdicts.rounds(head)))


def describe(job: Job) -> dict[str, Any]:
    """The one case of a job, as keys of [sweep] that any version understands."""
    case, shape = job.case, job.case.shape
    options = "".join(f":{key}={value}" for key, value in case.spec.options.items())
    impl = f":impl={case.spec.impl}" if case.spec.impl else ""
    name = f"{case.spec.name}{options}{impl}"
    what: dict[str, Any] = {"model": name, "image": f"{shape.rows}x{shape.cols}"} if job.subject.model else {
        "attn": name, "grid": f"{shape.rows}x{shape.cols}", "heads": str(shape.heads), "head_dim": str(shape.head_dim),
        "inputs": case.inputs}
    if shape.causal:
        what["causal"] = True  # only where it is so: older versions do not know the word
    return what | {"baseline": "none", "batch": str(shape.batch), "dtype": case.dtype, "mode": case.mode,
                   "device": case.device, "impl": case.impl, "seed": case.seed}


class _Workers:
    """A worker for each side, started in turn and ended together."""

    def __init__(self, sources: Sequence[Source], plan: Plan, first: int) -> None:
        self.first, self._sources, self._plan = first, sources, plan
        started: dict[int, _Worker] = {}
        try:
            for side in (first, 1 - first):
                started[side] = _Worker(sources[side], plan)
            for worker in started.values():
                worker.greet()
        except BaseException:
            for worker in started.values():
                worker.end()
            raise
        self.both = [started[0], started[1]]

    def replace(self, side: int) -> None:
        """A new worker where a case has ended the one before."""
        self.both[side].end()
        self.both[side] = _Worker(self._sources[side], self._plan)
        self.both[side].greet()

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.both:
            worker.end()


class _Died(Exception):
    """A worker ended while it had a case; status and note of that case."""


class _Worker:
    """A child process that runs one version's `softbench.gate.worker`."""

    environment: dict[str, Any]

    def __init__(self, source: Source, plan: Plan) -> None:
        self.source, self.ending = source, plan.ending
        self.child = child.start("-m", "softbench.gate.worker", environment=programme.environment(source))
        self._write({"protocol": PROTOCOL, "process": plan.process, "device": plan.jobs[0].case.device})

    def greet(self) -> None:
        """Wait until the worker is ready, and make sure that it is the version it should be.

        Raises:
            WorkerFailed: it does not come up, or is another one.
        """
        answer = self._read(_START_SECONDS)
        if answer is None:
            raise self._unable()
        if answer.get("protocol") != PROTOCOL:
            raise WorkerFailed(f"{self.source.name} speaks another version of the gate's protocol"
                               f" ({answer.get('protocol')}, here {PROTOCOL}). Compare with a later revision.")
        if answer["root"] != str(self.source.root):
            raise WorkerFailed(f"The worker of {self.source.name} loaded softbench from {answer['root']}. Remove that"
                               " from the front of PYTHONPATH.")
        self.environment = answer["environment"]

    def ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer to one request. Raises _Died where the case ends the worker, or is not done in time."""
        self._write(request)
        answer = self._read(timeout + _GRACE_SECONDS)
        if answer is None:
            raise _Died(*self.child.post_mortem(timeout + _GRACE_SECONDS))
        return answer

    def end(self) -> None:
        """Close the line, and end the process and all that it started if that does not."""
        with contextlib.suppress(OSError):
            assert self.child.process.stdin is not None
            self.child.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.process.wait(1.0)
        self.child.end()

    def _write(self, request: dict[str, Any]) -> None:
        assert self.child.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended, and cannot answer
            self.child.process.stdin.write(json.dumps(request) + "\n")
            self.child.process.stdin.flush()

    def _read(self, seconds: float) -> dict[str, Any] | None:
        assert self.child.process.stdout is not None
        with self.ending.watching(self.child), self.child.within(seconds):
            line = self.child.process.stdout.readline()
        if not line.endswith("\n"):
            if self.ending.over:
                raise Ended
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _unable(self) -> WorkerFailed:
        code, text = self.child.process.wait(), self.child.said()
        if "No module named" in text and "softbench.gate" in text:
            return WorkerFailed(f"{self.source.name} is older than the gate, which it does not have. Compare with a"
                                " later revision, or record both with `softbench latency` and use `softbench compare`.")
        return WorkerFailed(f"The worker of {self.source.name} ended with {code}:"
                            f" {self.child.last_words()[:300] or 'it said nothing'}")
