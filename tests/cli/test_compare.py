"""`softbench compare` as a user sees it: whole outputs against files in golden/, exit codes, errors of one line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from compare import fake_runs as runs
from compare.fake_runs import timed
from reports import fake_records as fake

from softbench.records import Record

Run = Callable[..., tuple[int, str, str]]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _files(_elsewhere: None) -> None:
    base, head = runs.both()
    runs.write("base.jsonl", base)
    runs.write("head.jsonl", head)
    runs.write("one.jsonl", [timed(s, seed=i, attention=a, tokens=n) for i, (a, n, s) in enumerate(
        [("softmax", 256, 1e-3), ("soft", 256, 2e-3), ("softmax", 4096, 2e-2), ("soft", 4096, 5e-3)])])


OUTPUTS = {
    "compare.txt": ("base.jsonl", "head.jsonl"),
    "compare.md": ("base.jsonl", "head.jsonl", "--format", "md"),
    "compare.csv": ("base.jsonl", "head.jsonl", "--format", "csv"),
    "compare.jsonl": ("base.jsonl", "head.jsonl", "--format", "jsonl"),
    "compare_subjects.txt": ("one.jsonl@softmax", "@soft"),
    "compare_same.txt": ("one.jsonl", "one.jsonl", "--all"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_whole_output(run: Run, name: str) -> None:
    _, out, err = run("compare", *OUTPUTS[name])
    assert out == (GOLDEN / name).read_text(encoding="utf-8")
    assert err == ""


def test_no_table_is_wider_than_80_columns() -> None:
    for name in ("compare.txt", "compare_subjects.txt"):
        assert max(map(len, (GOLDEN / name).read_text().splitlines())) <= 80


def test_exit_codes(run: Run) -> None:
    runs.write("slow.jsonl", [timed(9e-3, seed=i, attention=a, tokens=n) for i, (a, n) in enumerate(
        [("softmax", 256), ("soft", 256)])])
    runs.write("noisy.jsonl", [timed(2e-2, seed=7, noise=0.1, tokens=4096)])
    assert run("compare", "one.jsonl", "one.jsonl")[0] == 0
    assert run("compare", "one.jsonl", "missing.jsonl")[0] == 1
    assert run("compare", "one.jsonl@x", "@soft")[0] == 2
    assert run("compare", "one.jsonl", "slow.jsonl", "--allow-missing")[0] == 3
    assert run("compare", "one.jsonl", "noisy.jsonl", "--allow-missing")[0] == 0
    assert run("compare", "one.jsonl", "noisy.jsonl", "--allow-missing", "--fail-on-inconclusive")[0] == 4
    assert run("compare", "one.jsonl", "slow.jsonl")[0] == 5
    assert run("compare", "base.jsonl", "one.jsonl", "--measure", "approx_error")[0] == 2


def test_nothing_that_can_be_compared_is_not_a_success(run: Run) -> None:
    runs.write("elsewhere.jsonl", [timed(environment=fake.ENVIRONMENT | {"machine": "epyc"}, tokens=256)])
    runs.write("here.jsonl", [timed(tokens=256)])
    code, out, err = run("compare", "here.jsonl", "elsewhere.jsonl")
    assert code == 5
    assert "machine xeon-2c-8g-1a2b3c, now epyc" in out
    assert "Nothing could be compared" in err
    assert run("compare", "here.jsonl", "elsewhere.jsonl", "--across", "machine")[0] == 0


@pytest.mark.parametrize(("arguments", "words"), [
    (("one.jsonl",), "Missing argument 'HEAD'"),
    (("one.jsonl", "one.jsonl", "--threshold", "x"), "'x' is not a valid float"),
    (("one.jsonl", "one.jsonl", "--threshold", "-1"), "-1.0 is not in the range"),
    (("one.jsonl", "one.jsonl", "--tolerance", "nan"), "nan is not a finite number"),
    (("one.jsonl", "one.jsonl", "--across", "torhc"), "Did you mean 'torch'?"),
    (("one.jsonl", "one.jsonl", "--measure", "latncy"), "Did you mean 'latency'?"),
    (("one.jsonl", "one.jsonl", "--plot", "x.pdf"), "the name must end in .png or .svg"),
])
def test_usage_errors(run: Run, arguments: tuple[str, ...], words: str) -> None:
    code, out, err = run("compare", *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def seeded(value: float) -> Record:
    return fake.record("approx_error", quantity="error_output", unit="1", value=value, samples=[value], detail={})


def test_thresholds_decide(run: Run) -> None:
    runs.write("a.jsonl", [timed(seed=1), seeded(0.5)])
    runs.write("b.jsonl", [timed(1.2e-3, seed=2),
                           seeded(0.52)])
    assert run("compare", "a.jsonl", "b.jsonl")[1].endswith("1 slower, 1 changed.\n")
    assert run("compare", "a.jsonl", "b.jsonl", "--threshold", "30")[1].endswith("1 changed, 1 same.\n")
    assert run("compare", "a.jsonl", "b.jsonl", "--floor-us", "500")[1].endswith("1 changed, 1 same.\n")
    assert run("compare", "a.jsonl", "b.jsonl", "--tolerance", "10")[1].endswith("1 slower, 1 same.\n")


def test_a_torn_line_is_warned_of_and_the_rest_compared(run: Run) -> None:
    with Path("one.jsonl").open("a") as file:
        file.write('{"measure": "lat')
    code, out, err = run("compare", "one.jsonl", "one.jsonl")
    assert code == 0
    assert "4 same." in out
    assert err == "Warning: one.jsonl, line 5 is torn (its writer was interrupted); it is left out.\n"


def test_csv_and_json_lines_hold_all_cases_and_agree(run: Run) -> None:
    _, table, _ = run("compare", "base.jsonl", "head.jsonl", "--format", "csv")
    _, lines, _ = run("compare", "base.jsonl", "head.jsonl", "--format", "jsonl")
    rows = list(csv.DictReader(io.StringIO(table)))
    objects = [json.loads(line) for line in lines.splitlines()]
    assert [row["verdict"] for row in rows] == [o["verdict"] for o in objects]
    assert len(rows) == 19
    for row, found in zip(rows, objects, strict=True):
        assert (float(row["ratio"]) if row["ratio"] else None) == found["ratio"]


def test_markdown_text_cannot_break_the_table(run: Run) -> None:
    evil = replace(timed(seed=1), label="a|b`<i>")
    runs.write("evil.jsonl", [evil])
    _, out, _ = run("compare", "evil.jsonl", "evil.jsonl", "--format", "md")
    row = next(line for line in out.splitlines() if "same" in line and line.startswith("|"))
    assert "a\\|b\\`\\<i\\>" in row


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_plot_has_a_mark_for_each_ratio(run: Run, suffix: str) -> None:
    code, _, err = run("compare", "base.jsonl", "head.jsonl", "--plot", f"x.{suffix}")
    assert code == 5
    assert f"Plot: x.{suffix}" in err
    assert Path(f"x.{suffix}").stat().st_size > 5000
    if suffix == "svg":
        drawn = Path("x.svg").read_text()
        _, lines, _ = run("compare", "base.jsonl", "head.jsonl", "--format", "jsonl")
        rows = [json.loads(line) for line in lines.splitlines()]
        shown = [r for r in rows if r["ratio"] and (r["verdict"] != "same" or r["unit"] == "s")]
        assert len(set(re.findall(r'id="ratio(\d+)"', drawn))) == len(shown)
        assert drawn.count("slower") == 1


def test_a_plot_of_nothing_is_said(run: Run) -> None:
    runs.write("f.jsonl", [fake.record("flops", unit="flop", value=1.0, samples=[1.0], detail={})])
    code, out, err = run("compare", "f.jsonl", "f.jsonl", "--plot", "x.png")
    assert (code, out, err) == (1, "1 same.\n", "Warning: no plot. No case has a ratio to plot.\n")
    assert not Path("x.png").exists()


def test_a_terminal_gets_the_same_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plain, _ = run("compare", "one.jsonl@softmax", "@soft")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    _, rich, _ = run("compare", "one.jsonl@softmax", "@soft")
    assert re.sub(r"\x1b\[[0-9;]*m", "", rich).split() == plain.split()


def test_a_hostile_file_name_does_not_reach_the_terminal(run: Run) -> None:
    name = "evil\x1b[31m\n\u202e.jsonl"
    Path(name).write_text("{}\n")
    code, out, err = run("compare", name, name)
    assert (code, out) == (1, "")
    assert err.startswith("Error: evil [31m .jsonl holds no softbench records")
    assert err.rstrip("\n").isprintable()
    runs.write(name, [timed()])
    with open(name, "a") as file:
        file.write("{}\n")
    assert run("compare", name, name)[2].startswith("Warning: evil [31m")
