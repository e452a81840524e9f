"""The study commands, end to end, with a small study that a package adds: tables, pictures, resuming, and mistakes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from softbench import plugins, records
from softbench.cli._progress import Progress

Run = Callable[..., tuple[int, str, str]]

TINY = '''"""Tiny study: how fast powers fall."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

from softbench.errors import UsageError
from softbench.options import option
from softbench.contracts.study import Finding, Task
from softbench.records.views import Heatmap, Lines, Rows, Scatter

QUANTITY, UNIT, DETERMINISTIC = "value", "1", True


@dataclass(frozen=True)
class Settings:
    bases: str = option("2,3", "bases of the powers")
    steps: int = option(4, "number of powers", low=1, high=100)
    pause: float = option(0.0, "seconds that a base takes", low=0)
    broken: str = option("", "bases whose task fails")


QUICK = {"steps": 2}
CHOICES = ("bases", "broken", "pause")
VIEWS = (
    Rows(name="summary", title="Last power of each base.", by=("base",), quantities=("value", "seconds"),
         pareto=("value", "seconds")),
    Rows(name="rates", title="Seconds alone.", by=("base",), quantities=("seconds",)),
    Lines(name="courses", title="All powers", quantities=("value",), trace=True, series="base"),
    Scatter(name="trade", title="Value against time", x="seconds", y="value", series="base"),
    Heatmap(name="empty", title="What no record has", quantity="nothing", x="base", y="dtype"),
)


def tasks(settings):
    bases = settings.bases.split(",")
    for base in bases:
        if not base.isdigit():
            raise UsageError(f"bases: '{base}' is not a whole number.")
    return [Task(f"base {b}, {settings.steps} steps", lambda b=b: _power(b, settings)) for b in bases]


def _power(base, settings):
    with Path("ran").open("a") as file:
        file.write(base + "\\n")
    time.sleep(settings.pause)
    if base in settings.broken.split(","):
        raise RuntimeError("no such power")
    at = {"coords": {"base": int(base), "inputs": "none"}}
    trace = [1 / int(base)**i if int(base) else math.nan for i in range(settings.steps + 1)]
    return [Finding(quantity="value", value=trace[-1], detail={"trace": trace}, **at),
            Finding(quantity="seconds", value=0.001 * int(base), unit="s", **at)]
'''


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Adds a study `tiny_study` as an installed package would; returns the folder that holds it."""
    folder = tmp_path / "packages"
    info = folder / "tiny-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[softbench.studies]\ntiny_study = tiny_module\n")
    monkeypatch.syspath_prepend(folder)

    def install(source: str = TINY) -> Path:
        (folder / "tiny_module.py").write_text(source)
        plugins._entry_points.cache_clear()
        return folder

    yield install
    plugins._entry_points.cache_clear()
    sys.modules.pop("tiny_module", None)


@pytest.fixture
def tiny(install: Callable[..., Path]) -> Path:
    return install()


def ran() -> list[str]:
    """The tasks that ran, each a base, in order."""
    return Path("ran").read_text().split() if Path("ran").exists() else []


TABLE = """\
Last power of each base.
cpu, inputs none
"""


def test_a_study_prints_its_tables_and_keeps_its_records(run: Run, tiny: Path) -> None:
    code, out, err = run("tiny-study", "--out", "x.jsonl")
    assert code == 0
    assert out.startswith(TABLE)
    rows = [line.split() for line in out.splitlines()]
    assert rows.count(["base", "value", "seconds", "notes"]) == 1
    assert ["2", "0.0625", "2.00", "ms", "*"] in rows
    assert ["3", "0.0123", "3.00", "ms", "*"] in rows
    assert "Seconds alone." in out
    assert "[2/2] base 3, 4 steps" in err
    assert "Records: x.jsonl (4 new)" in err
    found, problems = records.read("x.jsonl")
    assert problems == []
    assert [(r.measure, r.quantity, r.coords["task"]) for r in found[:2]] == [
        ("tiny_study", "value", "base 2, 4 steps"), ("tiny_study", "seconds", "base 2, 4 steps")]
    assert found[0].environment["command"] == "softbench tiny-study --out x.jsonl"


def test_default_output_is_named_after_the_command(run: Run, tiny: Path) -> None:
    assert run("tiny-study")[0] == 0
    assert [p.name.startswith("tiny-study-") for p in Path("results").iterdir()] == [True]


def test_formats_are_those_of_measures(run: Run, tiny: Path) -> None:
    assert {json.loads(line)["quantity"] for line in run("tiny-study", "--format", "jsonl")[1].splitlines()} == {
        "value", "seconds"}
    assert run("tiny-study", "--format", "csv")[1].startswith("measure,")
    assert "| ---:" in run("tiny-study", "--format", "md")[1] or "|---:" in run("tiny-study", "--format", "md")[1]


def test_settings_come_from_flags_over_set_over_file_over_quick(run: Run, tiny: Path) -> None:
    Path("bench.toml").write_text("[tiny_study]\nbases = [5, 7]\nsteps = 3\n")

    def tasks(*arguments: str) -> list[str]:
        code, out, _ = run("tiny-study", "--dry-run", *arguments)
        assert code == 0
        return [line for line in out.splitlines() if line.startswith("base ")]

    assert tasks() == ["base 5, 3 steps", "base 7, 3 steps"]
    assert tasks("--set", "tiny_study.steps=6") == ["base 5, 6 steps", "base 7, 6 steps"]
    assert tasks("--set", "tiny_study.steps=6", "--bases", "2") == ["base 2, 6 steps"]
    assert tasks("--quick") == ["base 5, 2 steps", "base 7, 2 steps"]
    assert tasks("--quick", "--steps", "9") == ["base 5, 9 steps", "base 7, 9 steps"]
    assert ran() == []
    assert run("latency", "--dry-run", "--attn", "soft")[0] == 0  # the section does not disturb other commands


def test_each_view_that_has_numbers_becomes_a_picture(run: Run, tiny: Path) -> None:
    code, _, err = run("tiny-study", "--out", "x.jsonl", "--plot", "pictures/x.svg")
    assert code == 0
    assert sorted(p.name for p in Path("pictures").iterdir()) == ["x-courses.svg", "x-trade.svg"]
    assert "Plot: pictures/x-trade.svg" in err
    assert "No picture 'empty'" in err
    code, _, err = run("plot", "x.jsonl", "--out", "y.png")
    assert code == 0
    assert sorted(p.name for p in Path().glob("y*")) == ["y-courses.png", "y-trade.png"]
    assert run("plot", "x.jsonl", "--out", "z.png", "--view", "trade")[0] == 0
    assert sorted(p.name for p in Path().glob("z*")) == ["z.png"]


def test_view_keeps_only_what_it_names(run: Run, tiny: Path) -> None:
    out = run("tiny-study", "--out", "x.jsonl", "--view", "rates")[1]
    assert "Seconds alone." in out
    assert "Last power" not in out
    shown = run("show", "x.jsonl", "--view", "summary")[1]
    assert "Last power" in shown
    assert "Seconds alone." not in shown
    code, _, err = run("plot", "x.jsonl", "--out", "y.png", "--view", "summary")
    assert (code, Path("y.png").exists()) == (2, False)
    assert "only tables: print them with `softbench show`" in err


def test_show_prints_what_the_study_printed(run: Run, tiny: Path) -> None:
    out = run("tiny-study", "--out", "x.jsonl")[1]
    assert run("show", "x.jsonl") == (0, out, "")


def test_files_may_mix_measures_and_studies(run: Run, tiny: Path) -> None:
    sizes = ["--tokens", "16", "--heads", "1", "--head-dim", "4", "--device", "cpu", "--rep", "1", "--warmup", "1"]
    run("tiny-study", "--out", "x.jsonl")
    assert run("latency", "--attn", "soft", *sizes, "--out", "x.jsonl")[0] == 0
    code, out, _ = run("show", "x.jsonl")
    assert code == 0
    assert out.index("Last power of each base.") < out.index("latency: median time")
    assert "task" not in out
    assert "latency" not in run("show", "x.jsonl", "--view", "summary")[1]
    code, _, err = run("plot", "x.jsonl", "--out", "y.png")
    assert code == 2
    assert "several measures (tiny_study, latency)" in err
    assert run("plot", "x.jsonl", "--out", "y.png", "--measure", "tiny_study")[0] == 0
    assert sorted(p.name for p in Path().glob("y*")) == ["y-courses.png", "y-trade.png"]


def test_resume_runs_only_what_is_missing_or_failed(run: Run, tiny: Path) -> None:
    assert run("tiny-study", "--bases", "2,3", "--broken", "3", "--out", "x.jsonl")[0] == 5
    code, out, err = run("tiny-study", "--bases", "5,2,3", "--out", "x.jsonl", "--resume")
    assert code == 0
    assert ran() == ["2", "3", "5", "3"]
    assert "Resuming: 1 of 3 tasks are in x.jsonl." in err
    assert "(4 new)" in err
    assert "without a result" not in out
    again = run("tiny-study", "--bases", "5,2,3", "--out", "x.jsonl", "--resume")
    assert again[:2] == (0, out)
    rows = run("tiny-study", "--bases", "5,2,3", "--out", "x.jsonl", "--resume", "--format", "jsonl")[1].splitlines()
    assert [json.loads(row)["coords"]["base"] for row in rows] == [5, 5, 2, 2, 3, 3]
    assert "(0 new)" in again[2]
    assert run("tiny-study", "--bases", "2", "--steps", "7", "--out", "x.jsonl", "--resume")[0] == 0
    assert ran()[4:] == ["2"]  # another task, by its name


def test_records_of_another_environment_are_not_taken_for_mine(run: Run, tiny: Path) -> None:
    run("tiny-study", "--threads", "1", "--out", "x.jsonl")
    _, out, err = run("tiny-study", "--denormals", "keep", "--threads", "1", "--out", "x.jsonl", "--resume")
    assert "another environment (denormals flush, here keep)" in err
    assert "Resuming: 0 of 2" in err
    assert ran() == ["2", "3"] * 2
    assert "denormals flush" not in out
    shown = run("show", "x.jsonl")[1]
    assert shown.splitlines().count("") > 2
    assert "denormals" in next(line for line in shown.splitlines() if "base  " in line)


def test_a_task_that_fails_is_a_row_and_the_study_goes_on(run: Run, tiny: Path) -> None:
    code, out, err = run("tiny-study", "--broken", "2", "--out", "x.jsonl")
    assert code == 5
    assert "[1/2] base 2, 4 steps: failed (RuntimeError: no such power)" in err
    assert "tiny_study: tasks without a result." in out
    assert ["base", "2,", "4", "steps", "failed", "[1]"] in [line.split() for line in out.splitlines()]
    assert "[1] RuntimeError: no such power" in out
    assert run("show", "x.jsonl")[1] == out


def test_numbers_that_are_not_finite_are_said_to_diverge(run: Run, tiny: Path) -> None:
    code, out, err = run("tiny-study", "--bases", "0,2", "--out", "x.jsonl", "--plot", "x.png")
    assert code == 0
    assert "[1/2] base 0, 4 steps: 1 of 2 numbers diverged" in err
    assert ["0", "diverged"] in [line.split()[:2] for line in out.splitlines()]
    assert Path("x-courses.png").exists()


@pytest.mark.parametrize("out", [["--out", "x.jsonl"], ["--out=x.jsonl"], []])
def test_ctrl_c_keeps_finished_tasks_and_says_how_to_go_on(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch,
                                                           out: list[str]) -> None:
    def start(progress: Progress, name: str) -> None:
        if name.startswith("base 3"):
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "start", start)
    code, printed, err = run("tiny-study", "--bases", "2,3,4", *out)
    assert (code, printed) == (130, "")
    (kept,) = [*Path("results").glob("tiny-study-*.jsonl"), *Path().glob("x.jsonl")]
    assert err.splitlines()[-1] == (
        f"Error: Interrupted: 1 of 3 tasks are done and kept in {kept}. Continue with: softbench tiny-study"
        f" --bases 2,3,4 {' '.join(out) or f'--out {kept}'} --resume")
    assert len(records.read(kept)[0]) == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (["--stepz", "3"], "No such option '--stepz'"),
    (["--steps", "0"], "steps must be at least 1, not 0"),
    (["--steps", "three"], "steps must be a whole number, not 'three'"),
    (["--bases", "2,x"], "bases: 'x' is not a whole number"),
    (["--bases", "2,2"], "has two tasks named 'base 2, 4 steps'"),
    (["--set", "tiny_study.step=3"], "No option of [tiny_study] named 'step'. Did you mean 'steps'?"),
    (["--set", "tiny_stud.steps=3"], "No section named 'tiny_stud'. Did you mean 'tiny_study'?"),
    (["--view", "sumary"], "No view named 'sumary'. Did you mean 'summary'?"),
    (["--view", "courses"], "is a picture, not a table: draw it with --plot"),
    (["--plot", "x.pdf"], "must end in .png or .svg"),
    (["--plot", "folder/"], "must end in .png or .svg"),
    (["--resume"], "--resume needs the file to continue"),
    (["--format", "xml"], "'xml' is not one of"),
    (["--config", "missing.toml"], "Cannot read missing.toml"),
])
def test_mistakes_are_one_line(run: Run, tiny: Path, arguments: list[str], message: str) -> None:
    code, out, err = run("tiny-study", *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert list(Path().iterdir()) == []


def test_an_output_that_cannot_be_written_is_known_before_anything_runs(run: Run, tiny: Path) -> None:
    Path("file").write_text("")
    code, _, err = run("tiny-study", "--out", "file/x.jsonl")
    assert code == 1
    assert "Cannot write file/x.jsonl" in err
    assert ran() == []


def test_a_plot_that_cannot_be_written_loses_no_record(run: Run, tiny: Path) -> None:
    Path("file").write_text("")
    code, _, err = run("tiny-study", "--out", "x.jsonl", "--plot", "file/x.png")
    assert code == 1
    assert "Cannot write file/x-courses.png" in err
    assert len(records.read("x.jsonl")[0]) == 4


@pytest.mark.parametrize(("source", "message"), [
    ("x = 1", "Study 'tiny_study' lacks QUANTITIES, Settings"),
    ("1 / 0", "Cannot import study 'tiny_study': ZeroDivisionError"),
    (TINY.replace("steps: int", "out: int").replace("settings.steps", "4"), "its setting 'out' is already a flag"),
    (TINY.replace("return [Task", "return [] and [Task"), "Study 'tiny_study' has no task"),
])
def test_broken_studies_are_one_line(run: Run, install: Callable[[str], Path], source: str, message: str) -> None:
    install(source)
    code, out, err = run("tiny-study")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert message in err


def test_help_and_list_name_the_study_by_its_command(run: Run, tiny: Path) -> None:
    assert "tiny-study" in run("--help")[1].partition("Study:")[2].partition("Look:")[0]
    assert "\ntiny-study " in run("list")[1].partition("Studies")[2]
    text = run("tiny-study", "--help")[1]
    assert "Views: summary, rates, courses, trade, empty." in text
    for flag in ("--bases", "--pause", "--threads", "--denormals", "--set", "--resume", "--dry-run", "--view"):
        assert flag in text
    assert "--attn" not in text
    assert "No command 'tiny_study'. Did you mean 'tiny-study'?" in run("tiny_study")[2]


def test_show_and_plot_of_a_study_load_no_torch(run: Run, tiny: Path) -> None:
    run("tiny-study", "--out", "x.jsonl")
    code = ("import sys; sys.modules['torch'] = None\n"
            "from softbench.__main__ import main\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit as stop: assert not stop.code, stop.code")
    for arguments in (["show", "x.jsonl"], ["plot", "x.jsonl", "--out", "y.png"], ["tiny-study", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False,
                              env={"PYTHONPATH": f"{Path(plugins.__file__).parents[1]}:{tiny}", "PATH": ""})
        assert done.returncode == 0, done.stderr
        assert "Plot: y-courses.png" in done.stderr if arguments[0] == "plot" else done.stdout


def test_a_task_that_was_run_again_shows_only_its_last_outcome(run: Run, tiny: Path) -> None:
    run("tiny-study", "--bases", "2", "--broken", "2", "--out", "x.jsonl")
    run("tiny-study", "--bases", "2", "--out", "x.jsonl")
    assert "without a result" not in run("show", "x.jsonl")[1]
    run("tiny-study", "--bases", "2", "--broken", "2", "--out", "x.jsonl")
    out = run("show", "x.jsonl")[1]
    assert "without a result" in out
    assert "Last power" not in out


@pytest.mark.parametrize("name", plugins._builtin("studies"))
def test_views_of_built_in_studies_have_names_that_files_can_have(name: str) -> None:
    module = plugins.load("studies", name)
    names = [view.name for view in module.VIEWS]
    assert len(set(names)) == len(names) > 0
    assert all(view.isidentifier() and view == view.lower() for view in names)
    assert set(module.QUICK) <= {field.name for field in dataclasses.fields(module.Settings)}
