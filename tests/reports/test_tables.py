"""Whole tables against files in golden/, and what each renderer must not lose."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from reports import fake_records as fake
from reports import reader
from rich.console import Console

from softbench.cli import _presenting
from softbench.records import Record, latest, read, to_frame
from softbench.reports import tables

GOLDEN = Path(__file__).parent / "golden"
EPYC = fake.ENVIRONMENT | {"machine": "epyc-64c-256g-ffffff", "cpu": "AMD EPYC (fake)", "threads": 64}
LONG = "soft:landmarks=64:inverse=cholesky"


def long_labels() -> list[Record]:
    return fake.latency(("softmax", "soft"), (1024, 4096)) + [
        fake.record(attention="soft", tokens=n, label=LONG, options={"landmarks": 64}) for n in (1024, 4096)]


def two_machines() -> list[Record]:
    return [*fake.latency(("softmax", "soft"), (256, 1024)),
            *(fake.record(attention=a, tokens=256, environment=EPYC) for a in ("softmax", "soft")),
            fake.record(attention="soft", tokens=1024, environment=EPYC)]


def draw(records: list[Record], width: int | None = None, baseline: str = "softmax") -> str:
    return tables.plain(reader.table(records, baseline), width)


def cells(text: str, attention: str) -> list[list[str]]:
    """The rows of one attention, split at the gaps between columns."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return [row for row in rows if attention in row]


def header(text: str) -> list[str]:
    return next(re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if "tokens  attention" in line)


@pytest.mark.parametrize(("name", "records", "width"), [
    ("latency", fake.latency(), None), ("memory", fake.memory(), None), ("flops", fake.flops(), None),
    ("generic", fake.generic(), None), ("machines", two_machines(), None), ("narrow", long_labels(), 80),
])
def test_whole_table(name: str, records: list[Record], width: int | None) -> None:
    assert draw(records, width) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_whole_markdown_table() -> None:
    drawn = tables.markdown(reader.table(fake.flops()))
    assert drawn == (GOLDEN / "flops.md").read_text(encoding="utf-8")


def test_the_usual_table_fits_80_columns() -> None:
    assert max(map(len, draw(fake.latency()).splitlines())) <= 80
    assert max(map(len, draw(fake.memory()).splitlines())) <= 80


RESULTS = Path(__file__).parents[2] / "results"


def committed(name: str) -> list[tables.Table]:
    """All tables of a file of results, as `softbench show` makes them."""
    frame = to_frame(latest(read(RESULTS / name)[0]))
    return tables.tables(frame, views=_presenting.choose(frame["measure"]).views)


@pytest.mark.parametrize("name", ["latency-cpu", "roofline-cpu"])
def test_a_table_that_is_too_wide_is_cut_down_to_80_columns(name: str) -> None:
    """Headers are folded, spare columns go and are named, and what is still too wide comes in parts."""
    drawn = "\n".join(tables.plain(table, 80) for table in committed(f"{name}.jsonl"))
    assert drawn == (GOLDEN / f"{name}_80.txt").read_text(encoding="utf-8")
    assert "\n".join(map(tables.plain, committed(f"{name}.jsonl"))) != drawn


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("name", sorted(str(path.relative_to(RESULTS)) for path in RESULTS.rglob("*.jsonl")))
def test_every_table_of_the_results_fits_a_terminal(name: str, width: int) -> None:
    for table in committed(name):
        drawn = tables.plain(table, width)
        assert max(map(len, drawn.splitlines())) <= width
        for column in table.columns:  # shown, or told to be left out
            assert set(re.findall(r"[^\s,.]+", column.header)) <= set(re.findall(r"[^\s,.]+", drawn))


def test_a_speed_up_above_one_is_faster_and_a_memory_ratio_below_one_is_less() -> None:
    times = draw([fake.record(value=2.0), fake.record(attention="soft", value=0.5)])
    assert header(times)[-2:] == ["vs softmax", "samples"]
    assert cells(times, "soft")[0][-2] == "4.00x"
    sizes = draw([fake.record("memory", attention, unit="B", value=value, samples=[value])
                  for attention, value in (("softmax", 2048.0), ("soft", 512.0))])
    assert header(sizes)[-1] == "of softmax"
    assert cells(sizes, "soft")[0][-2:] == ["512 B", "0.250x"]


def test_no_ratio_without_a_baseline_or_with_nothing_beside_it() -> None:
    for records in (fake.latency(("soft", "performer"), (256,)), [fake.record()]):
        assert not any("softmax" in name for name in header(draw(records)))
    assert "vs performer" in header(draw(fake.latency(), baseline="performer"))


@pytest.mark.parametrize("status", ["oom", "unsupported", "timeout", "failed", "diverged"])
def test_a_status_is_a_word_and_has_no_ratio(status: str) -> None:
    drawn = draw([fake.record(), fake.failed(status, attention="soft")])
    assert cells(drawn, "soft")[0][3:] == [status, "n/a", "n/a", "n/a"]


def test_an_ok_record_without_a_number_is_not_available() -> None:
    assert cells(draw([fake.record(value=None, samples=[])]), "softmax")[0][2:] == ["n/a", "n/a", "n/a"]


@pytest.mark.parametrize(("share", "flagged"), [(0.05, False), (0.051, True), (0.4, True), (None, False)])
def test_foreign_cpu_is_flagged_above_five_per_cent(share: float | None, flagged: bool) -> None:
    drawn = draw([fake.record(detail={"foreign_cpu": share})])
    assert ("! " in drawn) == flagged
    assert ("a time is doubtful" in drawn) == flagged


def test_equal_notes_share_a_number() -> None:
    drawn = draw([fake.record(tokens=n, note=note) for n, note in ((256, "one"), (512, "two"), (1024, "one"))])
    assert [row[-1] for row in cells(drawn, "softmax")] == ["[1]", "[2]", "[1]"]
    assert drawn.endswith("\n\n[1] one\n[2] two\n")


def test_counts_that_differ_say_by_how_much() -> None:
    counts = [fake.record("flops", quantity=f"flops_{c}", unit="flop", value=v, detail={})
              for c, v in (("closed_form", 100e9), ("torch", 99.5e9), ("fvcore", 80e9))]
    assert cells(draw(counts), "softmax")[0][-2:] == ["50.0", "20 % off"]
    assert cells(draw(counts[:2]), "softmax")[0][-1] == "ok"
    assert cells(draw(counts[:1]), "softmax")[0][-1] == "n/a"


def test_what_varies_is_a_column_and_what_does_not_is_in_the_caption() -> None:
    drawn = draw([fake.record(dtype=d, batch=b) for d in ("float32", "float16") for b in (8, 1)])
    assert next(line for line in drawn.splitlines() if "tokens  att" in line).split()[:4] == \
        ["dtype", "batch", "tokens", "attention"]
    assert [row[:2] for row in cells(drawn, "softmax")] == \
        [["float32", "1"], ["float32", "8"], ["float16", "1"], ["float16", "8"]]
    assert "batch" not in drawn.splitlines()[1]


def test_several_measures_give_several_tables() -> None:
    frame = to_frame(fake.latency() + fake.memory())
    assert [t.captions[0].partition(":")[0] for t in tables.tables(frame)] == ["latency", "memory"]


@pytest.mark.parametrize("width", [1, 40, 60])
def test_a_small_width_loses_spare_columns_alone_and_says_so(width: int) -> None:
    drawn, wanted = draw(long_labels(), width), draw(long_labels())
    assert "Not shown at this width: samples." in " ".join(drawn.split())
    for cell in ("2.20 ms", "3.06..3.19 ms", "0.704x", "6.38..6.64 ms", "oom"):
        assert drawn.count(cell) == wanted.count(cell)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_width_loses_a_character(width: int) -> None:
    wanted = sorted(draw(long_labels()).replace(" ", "").replace("-", "").replace("\n", ""))
    assert sorted(draw(long_labels(), width).replace(" ", "").replace("-", "").replace("\n", "")) == wanted


def test_a_table_that_can_fit_does() -> None:
    assert max(map(len, draw(long_labels(), 80).splitlines())) <= 80
    assert LONG in draw(long_labels(), 140)


def console(width: int, colour: bool) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None,
                   legacy_windows=False, no_color=not colour, _environ={})


@pytest.mark.parametrize("width", [50, 80, 140])
def test_a_terminal_shows_what_the_pipe_shows(width: int) -> None:
    screen = console(width, colour=False)
    screen.print(tables.rich_table(reader.table(long_labels())))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", draw(long_labels(), width))


def test_a_terminal_colours_status_words_and_reads_no_markup() -> None:
    screen = console(100, colour=True)
    screen.print(tables.rich_table(reader.table([fake.record(label="[red]x[/red]"), fake.failed("oom", tokens=64)])))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]x[/red]" in shown
    assert "\x1b[31moom\x1b[0m" in shown


def test_markdown_escapes_what_would_break_the_table() -> None:
    drawn = tables.markdown(reader.table([fake.record(label="a|b<c>*d*\\", note="see [x](y)\nnow")]))
    row = next(line for line in drawn.splitlines() if "b\\<c" in line)
    assert "a\\|b\\<c\\>\\*d\\*\\\\" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"\|", drawn.splitlines()[5]))
    assert "see \\[x\\](y) now" in drawn


def test_control_characters_do_not_reach_the_terminal() -> None:
    drawn = draw([fake.record(label="a\x1b[2Jb\nc", note="bell\x07", coords={"k\x1b": "v\x1b"})])
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", drawn)


def test_old_or_partial_environments_are_shown_as_far_as_they_go() -> None:
    assert len(reader.table([fake.record(environment={})]).captions) == 2
    partly = [fake.record(environment={}), fake.record(tokens=64, environment={"machine": "m", "torch": "2.10.0"})]
    assert header(draw(partly))[:2] == ["machine", "torch"]


def test_csv_round_trip() -> None:
    frame = to_frame([*fake.latency(lengths=(256, 1024)),
                      fake.record(label='quo"te, and\nline', options={"landmarks": 49, "name": "ü"}, value=1 / 3)])
    text = tables.to_csv(frame)
    back = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
    assert list(back.columns) == list(frame.columns)
    assert len(back) == len(frame)
    pd.testing.assert_series_equal(back["value"], frame["value"], rtol=1e-12)
    assert [row["value"] for row in csv.DictReader(io.StringIO(text))][-1] == repr(1 / 3)
    assert [json.loads(s) for s in back["samples"]] == list(frame["samples"])
    assert [json.loads(s) for s in back["options"]] == list(frame["options"])
    assert [json.loads(s) for s in back["detail"]] == list(frame["detail"])
    assert back["label"].iloc[-1] == 'quo"te, and\nline'
    assert list(back["tokens"]) == list(frame["tokens"])


def test_csv_leaves_the_frame_as_it_was() -> None:
    frame = to_frame(fake.latency(lengths=(256,)))
    before = frame.copy(deep=True)
    tables.to_csv(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_reports_import_no_torch() -> None:
    code = ("import sys; import softbench.reports.tables, softbench.reports.figures, softbench.reports.format;"
            "sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'matplotlib', 'rich')))")
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
