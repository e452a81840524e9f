"""Tasks side by side: in the order of what they need, so many at a time, and none left when the run ends."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from softbench import config, options
from softbench.bench import beside, isolate, session
from softbench.bench.beside import SideBySide
from softbench.bench.run import run
from softbench.bench.study import Study
from softbench.contracts import study as studies
from softbench.contracts.quantities import Quantity
from softbench.contracts.study import Finding, Task
from softbench.errors import PluginError
from softbench.records import Record, from_json


class Module(ModuleType):
    """A study that adds."""

    QUANTITIES = (Quantity("value", "1", "exact", "less"),)
    CHOICES = ("jobs",)


@dataclass(frozen=True)
class Settings:
    jobs: int = 2


class Children:
    """Stands in for children: runs their tasks in the thread that waits for each, and keeps what they were asked."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.names: list[str] = []
        self.at_once: list[int] = []
        self.active, self.lock = 0, threading.Lock()

    def ask(self, module: str, request: dict[str, Any], timeout: None, limit: None,
            started: Callable[[Any], None]) -> list[str] | tuple[str, str]:
        with self.lock:
            self.names.append(request["task"])
            self.active += 1
            self.at_once.append(self.active)
        time.sleep(0.02)
        task = next(task for task in self.study.tasks if task.name == request["task"])
        if task.name == "dies":
            return "oom", "the child process died of SIGKILL, as when memory runs out"
        given = [from_json(line) for line in json.loads(json.dumps(request))["given"]]
        one = Study(self.study.name, self.study.module, self.study.settings, [task], held=given)
        answer = [record.to_json() for _, records in one for record in records]
        with self.lock:
            self.active -= 1
        return answer


def adding(monkeypatch: pytest.MonkeyPatch, *tasks: Task, jobs: int = 2) -> tuple[SideBySide, Children]:
    study = SideBySide("adding", cast(Any, Module("m")), Settings(jobs), list(tasks))
    children = Children(study)
    monkeypatch.setattr(isolate, "ask", children.ask)
    return study, children


def value(number: float, before: Sequence[Record] = ()) -> list[Finding]:
    return [Finding(quantity="value", value=number + sum(record.value or 0.0 for record in before))]


TASKS = (Task("1", partial(value, 1.0)), Task("2", partial(value, 2.0)),
         Task("after 2", partial(value, 10.0), needs=("2",)), Task("3", partial(value, 3.0)),
         Task("time", partial(value, 100.0), alone=True), Task("sum", partial(value, 0.0), concludes=True))


@pytest.mark.parametrize("jobs", [2, 3, 8])
def test_they_give_what_they_give_one_after_the_other(monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    study, children = adding(monkeypatch, *TASKS, jobs=jobs)
    values = {str(record.coords["task"]): record.value for record in run(study).records}
    assert values == {"1": 1, "2": 2, "after 2": 12, "3": 3, "time": 100, "sum": 118}
    assert sorted(children.names) == ["1", "2", "3", "after 2"]  # the others ran here
    assert children.names.index("after 2") > children.names.index("2")
    assert 1 < max(children.at_once) <= jobs


def test_what_needs_a_task_that_runs_alone_comes_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    last = Task("last", partial(value, 0.5), needs=("after time",))
    study, children = adding(monkeypatch, *TASKS[:5], Task("after time", partial(value, 10.0), needs=("time",)), last)
    values = {str(record.coords["task"]): record.value for record in run(study).records}
    assert (values["after time"], values["last"]) == (110, 110.5)
    assert sorted(children.names) == ["1", "2", "3", "after 2"]


@pytest.mark.parametrize("needs", ["b", "a", "nothing"])
def test_a_task_that_needs_what_is_none_before_it_is_refused(monkeypatch: pytest.MonkeyPatch, needs: str) -> None:
    """Its turn would never come."""
    module = cast(Any, Module("m"))
    module.Settings = Settings
    module.tasks = lambda settings: [Task("a", partial(value, 1.0), needs=(needs,)), Task("b", partial(value, 1.0))]
    monkeypatch.setattr(studies, "load", lambda name: module)
    with pytest.raises(PluginError, match=f"Study 'adding': task 'a' needs '{needs}', which is no task before it."):
        session.lay_out_study(config.load(None), "adding")


def test_what_a_resumed_run_holds_is_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = adding(monkeypatch, *TASKS)
    held = [record for record in run(study).records if record.coords["task"] == "2"]
    left = replace(study, tasks=[task for task in TASKS if task.name == "after 2"], held=held)
    assert [record.value for _, given in left for record in given] == [12]


def test_a_child_that_dies_is_a_row_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    study, _ = adding(monkeypatch, Task("dies", partial(value, 1.0)), *TASKS[:2])
    rows = {str(record.coords["task"]): (record.status, record.note) for record in run(study).records}
    assert rows["dies"] == ("oom", "the child process died of SIGKILL, as when memory runs out")
    assert rows["1"] == rows["2"] == ("ok", "")


def test_a_child_that_died_is_tried_again_by_a_resumed_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study, children = adding(monkeypatch, Task("dies", partial(value, 1.0)), *TASKS[:2])
    run(study, tmp_path / "a.jsonl")
    children.names.clear()
    run(study, tmp_path / "a.jsonl", resume=True)
    assert children.names == ["dies"]


def test_a_child_that_cannot_be_started_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    study, children = adding(monkeypatch, *TASKS[:2])

    def ask(module: str, request: dict[str, Any], *more: Any) -> Any:
        if request["task"] == "1":
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return children.ask(module, request, *more)

    monkeypatch.setattr(isolate, "ask", ask)
    rows = {str(record.coords["task"]): (record.status, record.note) for record in run(study).records}
    note = f"no process could be started for it: {os.strerror(errno.EAGAIN)}"
    assert rows == {"1": ("failed", note), "2": ("ok", "")}


def test_children_end_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while two are at work: both are killed, and the third, whose turn has not come, does not start."""
    study, _ = adding(monkeypatch, *TASKS)
    killed = threading.Event()
    starts: list[str] = []

    class Alive:
        process = cast(Any, type("Process", (), {"poll": staticmethod(lambda: None)}))

        def kill(self) -> None:
            killed.set()

    def ask(module: str, request: dict[str, Any], timeout: None, limit: None, started: Callable[[Any], None]
            ) -> tuple[str, str]:
        starts.append(request["task"])
        started(Alive())
        assert killed.wait(10)
        return "failed", "killed"

    def press(*_: Any, **__: Any) -> Any:
        while len(starts) < 2:
            time.sleep(0.001)
        raise KeyboardInterrupt

    monkeypatch.setattr(isolate, "ask", ask)
    monkeypatch.setattr(beside, "wait", press)
    with pytest.raises(KeyboardInterrupt):
        run(study)
    assert killed.is_set()
    assert sorted(starts) == ["1", "2"]


def test_a_child_started_while_the_run_ends_is_ended_too() -> None:
    over, ends = beside._Over(), []
    over.end()
    over.take(cast(Any, type("Child", (), {"kill": lambda self: ends.append("killed")})()))
    assert ends == ["killed"]


def test_a_child_runs_its_task_of_the_same_study() -> None:
    """The answer of a task that needs others, with what it was given; the environment is of this process."""
    module = studies.load("pinv")
    values = {"matrices": "constant", "count": 1, "methods": "cholesky", "ridge": "0.1", "dtype": "float32",
              "parts": "inverse"}
    settings = options.parse(module.Settings, {k: v for k, v in values.items() if k in vars(module.Settings())}, "it")
    task = module.tasks(settings)[0]
    request = {"study": "pinv", "settings": options.to_dict(settings), "task": task.name, "given": [],
               "environment": {"machine": "m"}, "process": {}, "device": "cpu"}
    found = beside._child(json.loads(json.dumps(request)), {"threads": 7})
    assert found
    assert {(record.coords["task"], record.environment["threads"]) for record in found} == {(task.name, 7)}


def test_jobs_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "usable_cores", lambda: 8)
    for jobs, threads in ((1, 0), (2, 4), (3, 2), (16, 1)):
        flags = {"accuracy": {"task": "needle:tokens=8:vocab=4:train=8:val=2:test=2", "jobs": jobs}}
        study = session.lay_out_study(config.load(None, flags=flags), "accuracy")
        assert isinstance(study, SideBySide) is (jobs > 1)
        assert (study.process.threads if isinstance(study, SideBySide) else 0) == threads
