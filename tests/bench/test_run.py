"""Running a programme: what is kept, what is left out and what is said of it, whichever command or call asks for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest
import torch

from softbench import config, options, records
from softbench.bench import isolate, session
from softbench.bench.programme import Programme, digest
from softbench.bench.run import Run, Watch, resumed, run
from softbench.bench.study import Study
from softbench.bench.sweep import make_record
from softbench.contracts.quantities import Quantity
from softbench.contracts.study import Finding, Task
from softbench.errors import Interrupted, ResultsError, UsageError
from softbench.processes import setup
from softbench.records import UNFINISHED, Reading, Record

RESULTS = Path(__file__).parents[2] / "results"
OUT = Path("x.jsonl")


class Module(ModuleType):
    """A study that multiplies."""

    QUANTITIES = (Quantity("value", "1", "exact", "less"),)
    CHOICES = ("factors",)


@dataclass(frozen=True)
class Settings:
    factors: str = "2,3"
    by: float = 10.0
    sum: bool = False


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


ran: list[str] = []


def multiplied(settings: Settings = Settings(), break_at: str = "", **environment: Any) -> Study:
    """A task a factor, named by it alone; then one that sums, if asked for."""
    ran.clear()

    def product(factor: str) -> list[Finding]:
        ran.append(factor)
        if factor == break_at:
            raise ZeroDivisionError("no")
        return [Finding(quantity="value", value=settings.by * int(factor))]

    def total(before: Sequence[Record]) -> list[Finding]:
        ran.append("sum")
        return [Finding(quantity="value", value=sum(record.value or 0.0 for record in before))]

    tasks = [Task(factor, lambda factor=factor: product(factor)) for factor in settings.factors.split(",")]
    tasks += [Task("sum", total, concludes=True)] * settings.sum
    return Study("multiplied", cast(Any, Module("m")), settings, tasks, environment={"machine": "m"} | environment)


class Said(Watch):
    """Keeps what is said, and what is about to run."""

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self.started: list[str] = []
        super().__init__(self.remarks.append)

    def start(self, name: str) -> None:
        self.started.append(name)


def resume(programme: Programme) -> tuple[Run, str]:
    watch = Said()
    return run(programme, OUT, resume=True, watch=watch), "\n".join(watch.remarks)


def values(done: Run) -> list[float | None]:
    return [record.value for record in done.records]


def test_what_a_file_holds_is_left_out_and_stands_in_its_place() -> None:
    assert values(run(multiplied(), OUT)) == [20, 30]
    done, said = resume(multiplied(Settings(factors="5,2,3")))
    assert ran == ["5"]
    assert (values(done), len(done.new)) == ([50, 20, 30], 1)
    assert said == "Resuming: 2 of 3 tasks are in x.jsonl."
    assert resume(multiplied(Settings(factors="3")))[0].new == []


def test_settings_that_decide_are_part_of_what_a_task_is() -> None:
    """Though its name does not say so: no name is trusted to say all."""
    run(multiplied(), OUT)
    done, said = resume(multiplied(Settings(by=7.0)))
    assert (values(done), ran) == ([14, 21], ["2", "3"])
    assert "holds records made with other settings; these tasks are run again" in said
    assert values(resume(multiplied())[0]) == [20, 30]  # those of before are there still
    assert ran == []


def test_what_was_chosen_for_a_task_is_part_of_it() -> None:
    def with_at(**at: Any) -> Study:
        study = multiplied()
        return replace(study, tasks=[replace(task, at=at) for task in study.tasks])

    run(with_at(ridge=0.01), OUT)
    assert "Resuming: 0 of 2" in resume(with_at(ridge=0.0100001))[1]
    assert "Resuming: 2 of 2" in resume(with_at(ridge=0.01))[1]


def test_records_that_do_not_say_their_settings_are_kept_by_name_and_it_is_said() -> None:
    run(multiplied(), OUT)
    old = [replace(record, detail={}) for record in records.read(OUT)[0]]
    OUT.write_text("".join(record.to_json() + "\n" for record in old))
    done, said = resume(multiplied(Settings(by=7.0)))
    assert (values(done), ran) == ([20, 30], [])
    assert "do not say under which settings they were made; the names of their tasks are taken for it" in said


@pytest.mark.parametrize(("changed", "word"), [
    ({"status": "failed", "value": None}, ""), ({"detail": {UNFINISHED: True}}, ""),
    ({"environment": {"machine": "another"}}, "of another environment (machine another, here m)"),
    ({"environment": {"machine": "m", "plugins": '{"studies:multiplied": "1"}'}}, "whose files have changed since")])
def test_what_cannot_be_trusted_runs_again(changed: dict[str, Any], word: str) -> None:
    run(multiplied(), OUT)
    first, second = records.read(OUT)[0]
    detail = {**first.detail, **changed.get("detail", {})}
    OUT.write_text(replace(first, **changed | {"detail": detail}).to_json() + "\n" + second.to_json() + "\n")
    assert word in resume(multiplied())[1]
    assert ran == ["2"]


def test_kept_records_of_another_commit_are_told() -> None:
    run(multiplied(commit="abc"), OUT)
    assert "made at another commit of softbench (abc)" in resume(multiplied(commit="def"))[1]
    assert ran == []


def test_what_concludes_runs_again_with_any_of_the_others_and_gets_all_their_records() -> None:
    assert values(run(multiplied(Settings(sum=True)), OUT)) == [20, 30, 50]
    assert values(resume(multiplied(Settings(sum=True)))[0]) == [20, 30, 50]
    assert ran == []
    assert values(resume(multiplied(Settings("2,4,3", sum=True)))[0]) == [20, 40, 30, 90]
    assert ran == ["4", "sum"]


def in_turn(*ways: str) -> Study:
    """A task for each way, and one after it that needs it alone."""
    ran.clear()

    def begin(way: str) -> list[Finding]:
        ran.append(way)
        return [Finding(quantity="value", value=float(way))]

    def go_on(way: str, before: Sequence[Record]) -> list[Finding]:
        ran.append(f"after {way}")
        return [Finding(quantity="value", value=10 * sum(record.value or 0.0 for record in before))]

    tasks = [Task(way, partial(begin, way)) for way in ways]
    tasks += [Task(f"after {way}", partial(go_on, way), needs=(way,)) for way in ways]
    return Study("multiplied", cast(Any, Module("m")), Settings(), tasks, environment={"machine": "m"})


def test_a_task_gets_the_records_that_it_needs_and_runs_again_with_them_alone() -> None:
    assert values(run(in_turn("2", "3"), OUT)) == [2, 3, 20, 30]
    assert values(resume(in_turn("2", "3"))[0]) == [2, 3, 20, 30]
    assert ran == []
    assert values(resume(in_turn("2", "4", "3"))[0]) == [2, 4, 3, 20, 40, 30]
    assert ran == ["4", "after 4"]
    kept = [record for record in records.read(OUT)[0] if record.coords["task"] not in ("3", "after 4")]
    OUT.write_text("".join(record.to_json() + "\n" for record in kept))
    assert values(resume(in_turn("2", "4", "3"))[0]) == [2, 4, 3, 20, 40, 30]
    assert ran == ["3", "after 4", "after 3"]  # what needs 3 is of another 3


class Pressing(Watch):
    """Presses Ctrl-C when a task of this name is about to run."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def start(self, name: str) -> None:
        if name == self.name:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("made", "after", "values_", "rows"), [
    (lambda: in_turn("2", "3"), "after 2", [2, 3, 20, 30], ["after 2"]),
    (lambda: multiplied(Settings(sum=True)), "sum", [20, 30, 50], ["sum"])])
def test_what_draws_on_a_task_runs_again_though_the_run_that_mended_it_was_interrupted(
        made: Callable[[], Study], after: str, values_: list[float], rows: list[str]) -> None:
    run(made(), OUT)
    whole = records.read(OUT)[0]
    failed = {"status": "failed", "value": None}
    broken = [replace(record, **failed) if record.coords["task"] == "2" else record for record in whole]
    OUT.write_text("".join(record.to_json() + "\n" for record in broken))
    with pytest.raises(Interrupted):
        run(made(), OUT, resume=True, watch=Pressing(after))
    assert values(resume(made())[0]) == values_
    assert ran == rows
    resume(made())
    assert ran == []  # once is enough


def test_a_case_of_two_labels_is_resumed_once_for_both() -> None:
    """Two specs that come to one implementation, as `softmax` and `softmax:impl=sdpa` do on a CPU."""
    flags = {"sweep": {"attn": "softmax:impl=sdpa,softmax:impl=math", "tokens": "16", "device": "cpu"}}
    made = session.lay_out(config.load(None, flags=flags), "latency")
    rows = [make_record("latency", job, Reading("latency", unit="s", value=1.0, status="ok",
                                                detail={"settings": options.to_dict(made.settings)}), {})
            for job in made.jobs]
    records.append(OUT, rows)
    assert len({row.identity() for row in rows}) == 2 < len(rows)
    done, said = resume(made)
    assert (done.new, len(done.records)) == ([], 2)
    assert "3 of 3 cases" in said


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on() -> None:
    with pytest.raises(Interrupted, match=r"^Interrupted: 1 of 2 tasks are done and kept in x.jsonl. Go on.$"):
        run(multiplied(), OUT, again="Go on.", watch=Pressing("3"))
    assert resume(multiplied())[1] == "Resuming: 1 of 2 tasks are in x.jsonl."
    with pytest.raises(KeyboardInterrupt):  # nothing is kept, and there is nothing to go on with
        run(multiplied(), watch=Pressing("3"))


def test_a_failure_is_a_row_and_the_exit_code() -> None:
    done = run(multiplied(break_at="2"), OUT)
    assert [(r.status, r.note) for r in done.records] == [("failed", "ZeroDivisionError: no"), ("ok", "")]
    assert done.failed
    assert not run(multiplied()).failed
    assert Run([], []).failed
    assert Run([replace(done.records[0], status="oom")], []).failed  # no number at all


def test_a_file_that_cannot_be_written_is_known_before_anything_runs() -> None:
    Path("file").write_text("")
    with pytest.raises(ResultsError, match="Cannot write file"):
        run(multiplied(), Path("file/x.jsonl"))
    assert ran == []
    with pytest.raises(UsageError, match="needs the file to continue"):
        run(multiplied(), resume=True)


class Ending(Said):
    """Counts the rows and all records that it gets of what takes no end."""

    ends_process = True
    ended: tuple[int, int] = (0, 0)

    def stuck(self, rows: Sequence[Record], run: Run) -> None:
        self.ended = len(rows), len(run.records)


class Stuck(Study):
    def __iter__(self) -> Any:
        for step in super().__iter__():
            yield step
            assert self.on_stuck is not None
            self.on_stuck(step[1])
            return


def test_rows_of_what_takes_no_end_are_kept_before_the_process_ends() -> None:
    made, watch = multiplied(), Ending()
    run(Stuck(made.name, made.module, made.settings, made.tasks), OUT, watch=watch)
    assert watch.ended == (1, 2)
    assert len(records.read(OUT)[0]) == 2


def test_rows_that_a_full_disk_does_not_take_still_decide_how_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Record] = []

    def append(path: Path, rows: Sequence[Record]) -> None:
        if taken:
            raise ResultsError(f"Cannot write {path.name}: No space left on device.")
        taken.extend(rows)

    monkeypatch.setattr(records, "append", append)
    made, watch = multiplied(), Ending()
    run(Stuck(made.name, made.module, made.settings, made.tasks), OUT, watch=watch)
    assert watch.ended == (1, 2)
    assert watch.remarks == ["Cannot write x.jsonl: No space left on device."]


def test_a_digest_is_that_of_json() -> None:
    assert digest({"a": 1, "b": (2.0, "x")}) == digest({"b": [2, "x"], "a": 1.0})
    assert len({digest(part) for part in (1, 2, True, "1", None, [1], {"a": 1}, {"a": 2}, {"b": 1})}) == 9


def first_machine(path: Path) -> dict[str, Any]:
    return records.read(path)[0][0].environment


def held(programme: Programme, path: Path) -> tuple[Collection[int], str]:
    watch = Said()
    return resumed(replace(programme, environment=first_machine(path)), path, watch).keys(), watch.remarks[-1]


def test_committed_latencies_are_resumed() -> None:
    path = RESULTS / "latency-cpu.jsonl"
    settings = records.read(path)[0][0].detail["settings"]
    flags = {"sweep": {"attn": "soft,performer", "tokens": "512,1k", "device": "cpu"}, "latency": settings}
    sweep = session.lay_out(config.load(None, flags=flags), "latency")
    assert len(held(sweep, path)[0]) == len(sweep.jobs) == 6
    flags["latency"] = settings | {"rep": 1.0}
    assert len(held(session.lay_out(config.load(None, flags=flags), "latency"), path)[0]) == 0


def test_committed_errors_are_resumed_by_name() -> None:
    path = RESULTS / "approx-error-cpu.jsonl"
    names = {record.coords["task"] for record in records.read(path)[0]}
    study = session.lay_out_study(config.load(None, flags={"approx_error": {"inputs": "structured"}}), "approx_error")
    there = [i for i, task in enumerate(study.tasks) if task.name in names]
    assert there
    assert list(held(study, path)[0]) == there


@pytest.fixture
def process() -> Callable[[], tuple[Any, ...]]:
    """What a command may set in its process."""
    return lambda: (torch.get_num_threads(), torch.get_float32_matmul_precision(), setup._malloc, setup._denormals(),
                    torch.random.get_rng_state().sum().item())


@pytest.mark.parametrize("name", ["latency", "flops", "approx_error", "crossover"])
def test_laying_out_changes_nothing_in_the_process(process: Callable[[], Any], name: str) -> None:
    """Which is all that `--dry-run` does."""
    before = process()
    flags = {"process": {"threads": 1 + torch.get_num_threads(), "malloc": "default", "tf32": True,
                         "denormals": "flush" if setup._denormals() == "keep" else "keep"}}
    lay_out = session.lay_out if name in ("latency", "flops") else session.lay_out_study
    assert lay_out(session.configure(name, flags, quick=True), name).items()
    assert process() == before


def test_an_isolated_case_without_a_number_is_not_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row says under which settings it was, though the child gave none."""
    monkeypatch.setattr(isolate, "ask", lambda *given: ("oom", "it died of SIGABRT, as when memory runs out"))
    flags = {"sweep": {"attn": "soft", "tokens": "16", "device": "cpu"}}
    sweep = session.lay_out(config.load(None, flags=flags), "latency", isolate=True, memory_limit=1 << 30)
    assert [record.status for record in run(sweep, OUT).records] == ["oom", "oom"]
    assert "Resuming: 2 of 2 cases" in resume(sweep)[1]
