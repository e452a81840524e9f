"""Tasks of a study side by side, each in a child process of its own that ends with it.

A task that needs others begins when these are done. What measures times, or concludes, and what needs such a task, runs
in this process afterwards, with nothing beside it. The parent sends a task's name and the records that it draws on; the
child plans the same study, runs that one task, and answers with its records.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import Any

from softbench import options, plugins
from softbench.bench import isolate
from softbench.bench.programme import Step
from softbench.bench.study import Study, drawn_on
from softbench.config import Process
from softbench.contracts import study as studies
from softbench.contracts.study import Task
from softbench.processes.child import Child
from softbench.records import UNFINISHED, Record, from_json


@dataclass(frozen=True)
class SideBySide(Study):
    """A study of which `settings.jobs` tasks run at a time.

    Attributes:
        process: how a child is set up.
    """

    process: Process = field(default_factory=Process, kw_only=True)

    def steps(self, before: list[Record]) -> Iterator[Step]:
        """A step is a task that is done, or that runs here."""
        here: set[str] = set()
        for task in self.tasks:
            if task.alone or task.concludes or not here.isdisjoint(task.needs):
                here.add(task.name)
        yield from self._beside([task for task in self.tasks if task.name not in here], before)
        yield from replace(self, tasks=[task for task in self.tasks if task.name in here])._here(before)

    def _here(self, before: list[Record]) -> Iterator[Step]:
        return super().steps(before)

    def _beside(self, waiting: list[Task], before: list[Record]) -> Iterator[Step]:
        """Tasks as they are done, whatever their order."""
        left, running, over = {task.name for task in waiting}, dict[Future[list[Record]], Task](), _Over()
        with ThreadPoolExecutor(self.settings.jobs) as threads:
            try:
                while left:
                    for task in [task for task in waiting if left.isdisjoint(task.needs)]:
                        waiting.remove(task)
                        running[threads.submit(self._in_child, task, drawn_on(task, before), over)] = task
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        name = running.pop(future).name
                        yield Step(name, 1, future.result)
                        left.remove(name)
            finally:
                threads.shutdown(wait=False, cancel_futures=True)
                over.end()

    def _in_child(self, task: Task, drawn: list[list[Record]], over: _Over) -> list[Record]:
        request = {"study": self.name, "settings": options.to_dict(self.settings), "task": task.name,
                   "given": [record.to_json() for each in drawn for record in each], "environment": self.environment,
                   "process": options.to_dict(self.process), "device": self.device}
        answer: list[str] | tuple[str, str]
        try:
            answer = isolate.ask("softbench.bench.beside", request, None, None, over.take)
        except OSError as error:
            answer = "failed", f"no process could be started for it: {error.strerror or error}"
        if isinstance(answer, list):
            return [from_json(line) for line in answer]
        lost = self.unread(*answer)  # of the machine, not of the task: a resumed run tries again
        return [self._record(task, replace(lost, detail=lost.detail | {UNFINISHED: True}))]


class _Over:
    """The children at work, which end with the run: also those that a thread is about to start."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.lock, self.ended = threading.Lock(), False

    def take(self, child: Child) -> None:
        """A child has started."""
        with self.lock:
            self.children.append(child)
            if self.ended:
                child.kill()

    def end(self) -> None:
        """End them all."""
        with self.lock:
            self.ended = True
            for child in self.children:
                if child.process.poll() is None:
                    child.kill()


def _child(request: dict[str, Any], state: dict[str, Any]) -> list[Record]:
    module = studies.load(request["study"])
    settings = options.parse(module.Settings, request["settings"], request["study"])
    tasks = [task for task in module.tasks(settings) if task.name == request["task"]]
    study = Study(request["study"], module, settings, tasks, device=request["device"],
                  held=[from_json(line) for line in request["given"]],
                  environment=request["environment"] | state | {"plugins": plugins.codes()})
    return [record for _, records in study for record in records]


def main() -> None:
    """Entry of the child process."""
    request, state = isolate.asked()
    with isolate.answering() as answer:
        for record in _child(request, state):
            answer(record.to_json())


if __name__ == "__main__":
    main()
