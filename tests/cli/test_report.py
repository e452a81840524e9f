"""`softbench report` as a user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compare import fake_runs as runs
from reports import fake_records as fake
from reports import fake_study as study
from reports.read_page import Page

from softbench import records

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _files(_elsewhere: None) -> None:
    runs.write("a.jsonl", fake.latency(lengths=(256, 1024)))
    runs.write("failed.jsonl", [fake.failed("oom"), fake.failed("oom", attention="soft")])
    Path("empty.jsonl").write_text("")
    Path("other.jsonl").write_text('{"schema": 99, "measure": "latency"}\n')
    Path("torn.jsonl").write_text(Path("a.jsonl").read_text() + '{"mea')
    Path("text.html").write_text("what was there")


def read(path: str) -> Page:
    return Page(Path(path).read_text(encoding="utf-8"))


def test_several_files_become_one_page(run: Run, tmp_path: Path) -> None:
    Path("more").mkdir()
    runs.write("more/b.jsonl", fake.memory(lengths=(1024,)))
    code, out, err = run("report", "a.jsonl", "more/*.jsonl", "--out", "new/folder/report.html")
    assert (code, out) == (0, "")
    assert err.startswith("Report: new/folder/report.html (9 records, ")
    assert os.listdir("new/folder") == ["report.html"]
    page = read("new/folder/report.html")
    assert [s.one("h2").text for s in page.root.all("section")] == ["The answer", "Latency", "Memory",
                                                                    "Where it comes from"]
    assert page.section("Latency").one("p", **{"class": "about"}).text.startswith("seconds of one call")
    assert page.records(tmp_path) == [*fake.latency(lengths=(256, 1024)), *fake.memory(lengths=(1024,))]


def test_only_the_latest_record_of_a_case_counts(run: Run, tmp_path: Path) -> None:
    records.append("a.jsonl", [fake.record(tokens=256, value=7e-3)])
    assert run("report", "a.jsonl", "--out", "r.html")[0] == 0
    found = read("r.html").records(tmp_path)
    assert len(found) == 6
    assert [r.value for r in found if r.attention == "softmax" and r.rows == 16] == [7e-3]


def test_studies_and_trainings_are_shown_in_their_own_views(run: Run) -> None:
    rate = [study.observation("roofline", q, 3e10, unit="B/s", coords={"operation": "copy", "size": "1 MiB"})
            for q in ("bandwidth", "bandwidth_median")]
    epochs = [study.observation("train", "top1", 0.5 + 0.1 * n, label="soft-tiny", model="soft-tiny",
                                coords={"data": "digits", "epoch": n}) for n in (1, 2, 3)]
    runs.write("s.jsonl", [*rate, *epochs])
    assert run("report", "s.jsonl", "--out", "r.html")[0] == 0
    page = read("r.html")
    assert "What this device can do at most" in page.section("Roofline").text
    assert [s.attributes["aria-label"] for s in page.section("Training").all("svg", role="img")] == [
        "Share of validation answers that are right, after each epoch. top-1 against epoch"]  # and no empty panels


def test_baseline_is_chosen_or_none(run: Run) -> None:
    for baseline, header in (("performer", "vs performer"), ("", "vs softmax"), ("none", None)):
        assert run("report", "a.jsonl", "--out", "r.html", "--baseline", baseline)[0] == 0
        heads = [h.text for h in read("r.html").section("Latency").one("table").all("th")]
        assert [h for h in heads if h.startswith("vs ")] == ([header] if header else [])


def test_a_torn_line_is_warned_of_here_and_in_the_page(run: Run) -> None:
    code, _, err = run("report", "torn.jsonl", "--out", "r.html")
    assert code == 0
    assert "Warning: torn.jsonl, line 7 is torn" in err
    assert "line 7 is torn" in read("r.html").root.one("p", **{"class": "problem"}).text


@pytest.mark.parametrize(("arguments", "code", "words"), [
    ((), 2, "Missing argument"), (("a.jsonl",), 2, "Missing option '--out'"),
    (("a.jsonl", "--out", "r.pdf"), 2, "must end in .html"),
    (("a.jsonl", "text.html", "--out", "text.html"), 2, "is one of the files that this command reads"),
    (("a.jsonl", "text.html", "--out", "same.html"), 2, "is one of the files that this command reads"),
    (("a.jsonl", "--out", "text.html", "--baseline", "sofmax"), 2, "Did you mean 'softmax'?"),
    (("none.jsonl", "--out", "text.html"), 1, "No result file 'none.jsonl'"),
    (("empty.jsonl", "--out", "text.html"), 1, "the file is empty"),
    (("other.jsonl", "--out", "text.html"), 1, "schema 99, this softbench reads 2"),
    (("failed.jsonl", "--out", "text.html"), 1, "None of these records has a value (2 oom)"),
    (("a.jsonl", "--out", "a.jsonl/r.html"), 1, "Cannot write a.jsonl/r.html"),
    (("a.jsonl", "--out", "folder.html"), 1, "Cannot write folder.html"),
])
def test_errors_are_one_line_and_leave_all_as_it_was(run: Run, arguments: tuple[str, ...], code: int,
                                                     words: str) -> None:
    Path("same.html").symlink_to("text.html")
    Path("folder.html").mkdir()
    before = sorted(os.listdir())
    found, out, err = run("report", *arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1
    assert sorted(os.listdir()) == before
    assert Path("text.html").read_text() == "what was there"


def test_bytes_do_not_depend_on_the_process() -> None:
    runs.write("a.jsonl", [r for r in study.errors() if r.coords["inputs"] == "image"])
    for seed in ("1", "2"):
        subprocess.run([sys.executable, "-m", "softbench", "report", "a.jsonl", "--out", f"{seed}.html"], check=True,
                       env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
                       capture_output=True)
    assert Path("1.html").read_bytes() == Path("2.html").read_bytes()


def test_it_needs_no_torch() -> None:
    code = ("import sys\nfrom softbench.__main__ import main\n"
            "try: main(['report', 'a.jsonl', '--out', 'r.html'])\nfinally: print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                          capture_output=True)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
