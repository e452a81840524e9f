"""`softbench reproduce`, end to end, with the tables that need no measuring."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from softbench import records

Run = Callable[..., tuple[int, str, str]]
COMMAND = ("reproduce", "--tables", "sampling", "--device", "cpu", "--threads", "1", "--out", "r.jsonl")


def test_the_table_is_printed_recorded_resumed_shown_and_drawn(run: Run) -> None:
    code, out, err = run(*COMMAND)
    assert code == 0
    assert "conv      here   13,069,056  1.877      2.116  not run" in out
    assert "4 of 4 numbers not run" in err
    kept = Path("r.jsonl").read_text()
    origins = [json.loads(line)["coords"]["origin"] for line in kept.splitlines()]
    assert (origins.count("paper"), origins.count("here")) == (12, 16)

    code, again, err = run(*COMMAND, "--resume")
    assert (code, again) == (0, out)
    assert "Resuming: 3 of 3 tasks are in r.jsonl." in err
    assert "Warning" not in err  # quoted numbers are of no machine and of no commit
    assert Path("r.jsonl").read_text() == kept

    assert run("show", "r.jsonl")[:2] == (0, out)
    assert run("plot", "r.jsonl", "--out", "p.png", "--view", "gmac")[0] == 2  # no variant is among these records
    code, csv, _ = run("show", "r.jsonl", "--format", "csv")
    assert code == 0
    assert csv.count("\n") == 1 + 28


def test_pictures_of_the_variants(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from softbench.models import paper

    monkeypatch.setitem(paper.TABLES, "variants", paper.TABLES["variants"][:2])
    code, out, err = run("reproduce", "--tables", "variants", "--device", "cpu", "--threads", "1", "--out", "v.jsonl",
                         "--plot", "v.svg", "--format", "md")
    assert code == 0
    assert "| soft-tiny | here | 13,069,056 | 1.877 | 2.116 | not run |" in " ".join(out.split())
    assert {p.name for p in Path().glob("v-*.svg")} == {"v-parameters.svg", "v-gmac.svg", "v-accuracy.svg"}
    assert "No picture 'speed'" in err


@pytest.mark.parametrize(("arguments", "message"), [
    (("--tables", "sizes"), "No table named 'sizes'. Valid: attentions, landmarks, lra, sampling, variants."),
    (("--image", "2"), "An image of 2x2 pixels is smaller than a patch"),
    (("--batch", "0"), "batch must be at least 1"),
    (("--trained", "gone.jsonl"), "No result file 'gone.jsonl'"), (("--rep", "0"), "rep must be at least 1")])
def test_bad_requests_are_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run("reproduce", *arguments)
    assert code == (1 if "--trained" in arguments else 2)
    assert out == ""
    assert message in err
    assert err.count("\n") <= 3
    assert not list(Path().glob("**/*.jsonl"))


def test_dry_run_lists_the_tasks_and_writes_nothing(run: Run) -> None:
    code, out, _ = run("reproduce", "--dry-run", "--quick", "--device", "cpu")
    assert code == 0
    assert out.startswith("23 tasks, not run.")
    assert "landmarks memory of 81 image=96 batch=2 cpu" in out
    assert not Path("results").exists()


def test_help_needs_no_torch() -> None:
    code = ("import sys\nfrom softbench.__main__ import main\n"
            "try: main(['reproduce', '--help'])\n"
            "finally: print('LOADED', *sorted({'torch', 'timm', 'pandas'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert "--tables" in done.stdout


def test_records_of_before_can_still_be_read() -> None:
    """A status was added; the others are as they were."""
    assert records.STATUSES[:6] == ("ok", "oom", "unsupported", "timeout", "failed", "diverged")
