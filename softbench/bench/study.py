"""Running a study: its tasks one after the other, each giving records; whatever goes wrong becomes a row.

The twin of `sweep.py` for studies, whose tasks are not cases of one measure but pieces of one question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

from softbench import records
from softbench.bench import sweep
from softbench.contracts.study import Finding, Task, unread
from softbench.plugins.contained import contained
from softbench.processes import state
from softbench.records import WHOLE_TASK, Record


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

    def _observe(self, task: Task, found: list[Record]) -> list[Finding]:
        try:
            with state.guarded(), contained():
                return list(task.run(found) if task.concludes else task.run())
        except Exception as error:
            status, note = sweep.verdict(error)
            return [unread(self.module, status, note, {WHOLE_TASK: True})]

    def _record(self, task: Task, finding: Finding) -> Record:
        quoted = {"source": finding.quoted} if finding.quoted else {}
        told = replace(finding, detail=finding.detail | quoted, coords=finding.coords | {"task": task.name},
                       device=None if quoted else self.device)
        return records.make(self.name, told, told, told, records.origin({} if quoted else self.environment))
