"""A study as a programme: its tasks one after the other, each giving records; whatever goes wrong becomes a row."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self

from softbench import options, records
from softbench.bench.programme import Item, Programme, Step, digest
from softbench.contracts.study import Finding, Task, unread
from softbench.machine import device
from softbench.processes import state
from softbench.records import WHOLE_TASK, Record


@dataclass(frozen=True)
class Study(Programme):
    """The tasks of one study on this machine."""

    tasks: list[Task]
    word: ClassVar[str] = "tasks"

    def items(self) -> list[Item]:
        return [Item(task.name, self._digest(task), task.concludes, task.needs) for task in self.tasks]

    def item(self, record: Record) -> Item:
        return Item(str(record.coords.get("task", "")), str(record.detail.get("digest", "")))

    def only(self, positions: Collection[int]) -> Self:
        return replace(self, tasks=[self.tasks[i] for i in sorted(positions)])

    def steps(self, before: list[Record]) -> Iterator[Step]:
        return (Step(task.name, 1, partial(self._run, task, before)) for task in self.tasks)

    def unread(self, status: str, note: str) -> Finding:
        return unread(self.module, status, note, {WHOLE_TASK: True})

    def _run(self, task: Task, before: list[Record]) -> list[Record]:
        findings = self.attempt(self._findings, task, list(before))
        return [self._record(task, finding) for finding in findings]

    def _findings(self, task: Task, before: list[Record]) -> list[Finding]:
        with state.guarded():
            return list(task.run(*drawn_on(task, before)))

    def _record(self, task: Task, finding: Finding) -> Record:
        quoted = {"source": finding.quoted} if finding.quoted else {}
        placed = replace(finding, detail=finding.detail | quoted | {"digest": self._digest(task)},
                         coords=finding.coords | {"task": task.name},
                         device=None if quoted else device.kind(self.device))
        return records.make(self.name, placed, placed, placed, records.origin({} if quoted else self.environment))

    def _digest(self, task: Task) -> str:
        """Of all settings but those that only choose tasks, and of what they chose for this one."""
        settings = options.to_dict(self.settings)
        deciding = {key: settings[key] for key in settings if key not in getattr(self.module, "CHOICES", ())}
        if "device" in deciding:
            deciding["device"] = self.device
        return digest(self.name, task.name, deciding, dict(task.at))


def drawn_on(task: Task, before: list[Record]) -> list[list[Record]]:
    """The records that a task draws on, as the arguments of its `run`: none, or one list of them."""
    if task.concludes:
        return [before]
    return [[record for record in before if record.coords.get("task") in task.needs]] if task.needs else []
