"""The probes around a crossing, measured again in a process of their own.

The child answers with a line of JSON for each grid: its differences and the share of the CPU that others had.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from softbench import options
from softbench.bench import isolate
from softbench.bench.programme import verdict
from softbench.bench.sweep import Job
from softbench.bench.trial import leave_room
from softbench.measures import latency
from softbench.measures.latency.timing import Unearned, paired
from softbench.plugins.contained import contained
from softbench.processes import setup, state
from softbench.stats import median
from softbench.studies.crossover.search import ATTENTION, BASELINE, Stopped
from softbench.subjects import workload
from softbench.subjects.workload import Workload


def measure(jobs: Sequence[tuple[Job, Job]], timing: latency.Settings, rounds: int,
            seconds: float) -> list[tuple[list[float], float]]:
    """For each pair of an attention and its baseline, the differences of so many rounds and the share of others.

    Raises:
        Stopped: the child was not done in so many seconds, or gave nothing.
    """
    request = {"process": options.to_dict(setup.current()), "timing": options.to_dict(timing),
               "rounds": rounds, "pairs": [[isolate.packed(job.case, job.subject) for job in pair] for pair in jobs]}
    answer = isolate.ask("softbench.studies.crossover.again", request, seconds, None)
    if not isinstance(answer, list):
        raise Stopped(ATTENTION, *answer)
    lines = [json.loads(line) for line in answer]
    for line in lines:
        if "status" in line:
            raise Stopped(line["side"], line["status"], line["note"])
    if len(lines) < len(jobs):  # a plugin may end its process
        raise Stopped(ATTENTION, "failed", f"the child process ended after {len(lines)} of {len(jobs)} lengths")
    return [(line["differences"], line["foreign"]) for line in lines]


def _answers(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Do the child's part."""
    timing = latency.Settings(**request["timing"])
    for pair in request["pairs"]:
        side = ATTENTION
        try:
            with contained():
                head = _built(pair[0])
                side = BASELINE
                base = _built(pair[1])
                side = ATTENTION
                with closing(paired(base, head, timing)) as endless:
                    rounds = list(itertools.islice(endless, request["rounds"]))
        except Exception as error:
            if isinstance(error, Unearned) and error.workload is base:
                side = BASELINE
            status, note = verdict(error)
            yield {"side": side, "status": status, "note": note}
            return
        del head, base  # before the next are built
        yield {"differences": [math.log(median(ours) / median(theirs)) for theirs, ours, _ in rounds],
               "foreign": max(foreign for *_, foreign in rounds)}


def _built(one: dict[str, Any]) -> Workload:
    case, subject = isolate.unpacked(one)
    with state.guarded():
        built = workload.build(case, subject)
        built.check()
    return built


def main() -> None:
    """Entry of the child process."""
    request, _ = isolate.asked()
    with isolate.answering() as answer:
        leave_room(request["pairs"][0][0]["case"]["device"])
        for line in _answers(request):
            answer(json.dumps(line))


if __name__ == "__main__":
    main()
