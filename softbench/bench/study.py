"""Running a study: its tasks one after the other, each giving records; whatever goes wrong becomes a row.

The twin of `sweep.py` for studies, whose tasks are not cases of one measure but pieces of one question.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

from softbench.bench import sweep
from softbench.contained import contained
from softbench.contracts.study import Observation, Task
from softbench.processes import state
from softbench.records import WHOLE_TASK, Record, finite


@dataclass(frozen=True)
class Study:
    """The tasks of one study on this machine. `known` are the records of tasks that a resumed study leaves out."""

    name: str
    module: ModuleType
    tasks: list[Task]
    environment: dict[str, Any]
    device: str = "cpu"
    on_start: Callable[[Task], None] = field(default=lambda task: None)
    known: list[Record] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[Task, list[Record]]]:
        """Yields the records of each task as soon as it is done."""
        found = list(self.known)
        for task in self.tasks:
            self.on_start(task)
            group = [self._record(task, observation) for observation in self._observe(task, found)]
            found += group
            yield task, group

    def _observe(self, task: Task, found: list[Record]) -> list[Observation]:
        try:
            with state.guarded(), contained():
                return list(task.run(found) if task.concludes else task.run())
        except Exception as error:
            status, note = sweep.verdict(error)
            return [Observation(quantity=self.module.QUANTITY, unit=self.module.UNIT, value=None, status=status,
                                note=note, detail={WHOLE_TASK: True})]

    def _record(self, task: Task, seen: Observation) -> Record:
        value, status = seen.value, seen.status
        if value is not None and not math.isfinite(value):
            value, status = None, status if status != "ok" else "diverged"
        samples = [s for s in seen.samples if math.isfinite(s)]
        fields = {name: getattr(seen, name) for name in (
            "quantity", "unit", "note", "attention", "options", "label", "model", "impl", "mode", "batch", "heads",
            "rows", "cols", "head_dim", "dtype", "seed")}
        detail = {key: finite(entry) for key, entry in seen.detail.items()}
        if len(samples) < len(seen.samples):
            detail["samples_not_finite"] = len(seen.samples) - len(samples)
        if seen.quoted:
            detail["source"] = seen.quoted
        return Record(
            measure=self.name, value=value, status=status, samples=samples, detail=detail,
            device="" if seen.quoted else self.device, coords=seen.coords | {"task": task.name},
            environment={} if seen.quoted else self.environment,
            started=datetime.now(UTC).isoformat(timespec="seconds"), **fields)
