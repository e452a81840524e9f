"""The study of the paper's tables: quoted, counted, measured and trained numbers, and how they are shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reports import reader

from softbench import records
from softbench.bench import session
from softbench.config import Config, Process
from softbench.contracts.study import Finding
from softbench.errors import ResultsError, UsageError
from softbench.models import paper
from softbench.records import Record, to_frame
from softbench.reports import figures
from softbench.reports import tables as text
from softbench.studies import reproduce
from softbench.studies.reproduce import Settings, arena, tasks
from softbench.studies.reproduce import reproduction as run

Numbers = dict[tuple[Any, str, str], Finding]
POINT = run.Point(64, 2, "cpu", 1.0)


def by_name(found: Sequence[Finding]) -> Numbers:
    return {(o.coords["name"], o.quantity, o.coords.get("call", "")): o for o in found}


def measured(name: str, value: float | None, **changed: Any) -> Record:
    """A record as a measure makes it of a model."""
    fields: dict[str, Any] = {
        "measure": "latency", "quantity": name, "value": value, "unit": "s", "samples": [value] if value else [],
        "status": "ok" if value else "oom", "note": "", "detail": {}, "attention": "soft", "options": {},
        "model": "soft-tiny", "impl": "eager", "mode": "forward", "batch": 2, "rows": 64, "cols": 64,
        "dtype": "float32", "device": "cpu", "seed": 0, "coords": {"part": "whole"},
        "label": "soft-tiny", "environment": {"machine": "here"}, "started": "2026-01-01T00:00:00+00:00"}
    return Record(**fields | changed)


def trained(value: float, options: dict[str, Any], **changed: Any) -> Record:
    """The last epoch of a training on all of ImageNet-1K."""
    coords = {"data": "imagenet", "classes": 1000, "images": 50_000, "epoch": 300, "epochs": 300, "run": "x"}
    return measured("top1", value, **{"measure": "train", "unit": "1", "rows": 224, "cols": 224, "options": options,
                                      "coords": coords | changed.pop("coords", {})} | changed)


def options_of(table: str, name: str | int) -> dict[str, Any]:
    row = next(row for row in paper.TABLES[table] if row.name == name)
    return run._inside(run._model(row))


# --- what is quoted and counted ---------------------------------------------------------------------------------------

def test_quoted_numbers_carry_source_and_text() -> None:
    found = by_name(run.published("attentions", paper.TABLES["attentions"]))
    soft = found["soft-tiny", "throughput_inference", ""]
    assert (soft.value, soft.detail["printed"], soft.note) == (3436.0, "3436", "throughput: recalled, not read again")
    assert "Table 2" in soft.quoted
    assert found["soft-tiny", "top1", ""].note == ""
    assert found["softmax-tiny", "memory_per_image", ""].note.endswith("not printed, but follows from what is")
    assert found["soft-tiny", "over_softmax", "inference"].value == pytest.approx(3436 / 3240)
    assert found["soft-tiny", "over_softmax", "training"].value == pytest.approx(1730 / 1073)
    assert all(o.coords["origin"] == "paper" and o.quoted for o in found.values())
    assert not any("over_softmax" in key for key in by_name(run.published("variants", paper.TABLES["variants"])))


def test_counts_round_to_what_was_published() -> None:
    """Parameters as printed (the paper cuts off digits, not rounds), multiply-adds but of huge."""
    found = by_name(run.counted("variants", paper.TABLES["variants"]))
    for row in paper.TABLES["variants"]:
        for number in row.numbers:
            mine = found.get((row.name, number.quantity, ""))
            if number.quantity == "parameters":
                assert mine is not None
                assert f"{(mine.value or 0) // 1e6:.0f}M" == number.printed
            elif number.quantity == "flops":
                assert mine is not None
                assert (f"{(mine.value or 0) / 2e9:.1f}G" == number.printed) is not row.arch.endswith("huge")
    assert found["soft-tiny", "parameters", ""].value == 13_069_056
    assert found["soft-small-d20", "parameters", ""].value == 38_858_462
    assert "20 blocks" in found["soft-small-d20", "flops", ""].note
    tiny = found["soft-tiny", "flops_all", ""]
    assert (tiny.value or 0) / 2e9 == pytest.approx(2.1159, abs=1e-4)
    assert tiny.detail["gmac_by_part"]["inverse"] == pytest.approx(0.188, abs=1e-3)
    assert all(o.coords["origin"] == "here" and not o.quoted for o in found.values())


def test_counts_of_the_ablations() -> None:
    landmarks = by_name(run.counted("landmarks", paper.TABLES["landmarks"]))
    gmac = [(landmarks[m, "flops", ""].value or 0) / 2e9 for m in (36, 49, 64, 81)]
    assert gmac == sorted(gmac)
    assert gmac[1] == pytest.approx(1.877, abs=1e-3)
    sampling = by_name(run.counted("sampling", paper.TABLES["sampling"]))
    assert {s: sampling[s, "parameters", ""].value for s in ("conv", "random", "first", "avg")} == {
        "conv": 13_069_056, "random": 12_958_080, "first": 12_958_080, "avg": 12_958_080}


# --- what is measured -------------------------------------------------------------------------------------------------

def test_memory_is_what_one_more_image_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def peaks(rows: Any, point: Any, measure: str, call: str, batches: Sequence[int]) -> list[Record]:
        asked.append((measure, call, tuple(batches)))
        return [measured("peak_memory", 1000.0 + 30 * batch, unit="B", batch=batch) for batch in batches]

    monkeypatch.setattr(run, "_measured", peaks)
    total, each = run.memory("attentions", paper.TABLES["attentions"][0], POINT)
    assert asked == [("memory", "training", (2, 4))]
    assert (total.quantity, total.value, total.batch) == ("memory", 1060.0, 2)
    assert (each.quantity, each.value, each.unit) == ("memory_per_image", 30.0, "B")
    assert each.detail == {"peaks": {"2": 1060.0, "4": 1120.0}}
    assert each.note == "memory and throughput: measured at 64 px"
    _, each = run.memory("attentions", paper.TABLES["attentions"][0], replace(POINT, image=224))
    assert each.note == ""


@pytest.mark.parametrize(("first", "second", "statuses"), [
    (None, None, ["oom", "oom"]), (1000.0, None, ["ok", "oom"])])
def test_memory_that_runs_out_is_a_row(monkeypatch: pytest.MonkeyPatch, first: float | None, second: float | None,
                                       statuses: list[str]) -> None:
    monkeypatch.setattr(run, "_measured", lambda *_: [measured("peak_memory", first), measured("peak_memory", second)])
    found = run.memory("attentions", paper.TABLES["attentions"][0], POINT)
    assert [o.status for o in found] == statuses
    assert found[1].value is None


def test_throughput_is_images_a_second_and_over_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = paper.TABLES["attentions"]
    times = [0.4, 0.1, None, 0.2, 0.8]
    monkeypatch.setattr(run, "_measured", lambda *_: [
        measured("latency", t, detail={"foreign_cpu": 0.5 if t == 0.8 else 0.0}) for t in times])
    found = by_name(run.throughput("attentions", rows, POINT, "training"))
    assert found["softmax-tiny", "throughput_training", ""].value == 5.0
    assert found["linformer-tiny", "throughput_training", ""].samples == [20.0]
    assert found["linformer-tiny", "over_softmax", "training"].value == 4.0
    assert found["soft-tiny", "over_softmax", "training"].value == 0.5
    assert (found["performer-tiny", "throughput_training", ""].value,
            found["performer-tiny", "throughput_training", ""].status) == (None, "oom")
    assert ("performer-tiny", "over_softmax", "training") not in found
    assert "other processes" in found["soft-tiny", "throughput_training", ""].note


def test_without_softmax_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_measured", lambda rows, *_: [measured("latency", None), *(
        measured("latency", 0.1) for _ in rows[1:])])
    found = run.throughput("attentions", paper.TABLES["attentions"], POINT, "inference")
    assert {o.quantity for o in found} == {"throughput_inference"}


def test_models_are_measured_by_softbenchs_own_measures() -> None:
    """The only one that runs a model: peak and latency of one small case, as `softbench memory` gives them."""
    row = paper.TABLES["attentions"][-1]
    peaks = run._measured([row, row], replace(POINT, batch=1), "memory", "inference", [1, 2])
    assert [(r.measure, r.quantity, r.status, r.batch, r.rows) for r in peaks] == [
        ("memory", "peak_memory", "ok", 1, 64), ("memory", "peak_memory", "ok", 2, 64)]
    assert (peaks[0].value or 0) < (peaks[1].value or 0)
    assert peaks[0].label == "soft-tiny:inverse=newton"
    [timed] = run._measured([row], replace(POINT, batch=1), "latency", "inference", [1])
    assert (timed.quantity, timed.unit, timed.status, timed.mode) == ("latency", "s", "ok", "forward")


# --- what is trained --------------------------------------------------------------------------------------------------

def test_accuracy_is_that_of_a_training_or_not_run(tmp_path: Path) -> None:
    soft = options_of("variants", "soft-tiny")
    file = tmp_path / "records.jsonl"
    records.append(file, [
        trained(0.79, soft | {"inverse": "cholesky"}), trained(0.795, soft, quantity="top1_ema"),
        trained(0.99, soft, coords={"images": 360, "classes": 10}),  # digits
        trained(0.98, soft, coords={"epoch": 150}),  # not the end
        trained(0.97, soft, rows=384, cols=384), trained(0.96, soft, quantity="top5"),
        trained(0.95, soft | {"landmarks": 81}), trained(0.94, soft, model="soft-norm-tiny", measure="latency"),
        trained(0.80, soft, model="soft-huge", measure="eval", coords={"weights": "ema"})])
    found = run.trained(str(file))
    seen = by_name(run.accuracy("variants", paper.TABLES["variants"], found))
    assert (seen["soft-tiny", "top1", ""].value, seen["soft-tiny", "top1", ""].status) == (0.795, "ok")
    assert seen["soft-huge", "top1", ""].value == 0.80
    others = [o for (name, *_), o in seen.items() if name not in ("soft-tiny", "soft-huge")]
    assert all((o.value, o.status) == (None, "not_run") for o in others)


def test_accuracy_of_an_ablation_is_of_its_own_options() -> None:
    pooled = options_of("sampling", "avg")
    seen = by_name(run.accuracy("sampling", paper.TABLES["sampling"], [
        trained(0.7, pooled), trained(0.6, options_of("sampling", "conv") | {"sampling": "conv_ratio"})]))
    assert {name: o.value for (name, *_), o in seen.items()} == {"conv": 0.6, "random": None, "first": None, "avg": 0.7}
    seen = by_name(run.accuracy("landmarks", paper.TABLES["landmarks"], [trained(0.5, pooled | {"landmarks": 64})]))
    assert seen[64, "top1", ""].value == 0.5
    assert seen[49, "top1", ""].value is None


def test_files_of_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "torn.jsonl").write_text("{")
    assert run.trained("results/*.jsonl, results/*/*.jsonl") == []  # a pattern may name nothing, or something else
    with pytest.raises(ResultsError, match=r"No result file 'gone.jsonl'"):
        run.trained("gone.jsonl")
    with pytest.raises(ResultsError, match="holds no softbench records"):
        run.trained("results/torn.jsonl")


# --- the study --------------------------------------------------------------------------------------------------------

def settings(**changed: Any) -> Settings:
    return Settings(**{"device": "cpu", "trained": ""} | changed)


def test_tasks_are_what_is_asked_for() -> None:
    names = [task.name for task in tasks(settings())]
    assert len(set(names)) == len(names) == 23
    assert "attentions memory of soft-tiny image=224 batch=2 cpu" in names
    assert "attentions inference image=224 batch=2 cpu rep=500" in names
    assert [task.name for task in tasks(settings(tables="sampling"))] == [
        "sampling published", "sampling counted", "sampling top-1 of no training"]


def answer(value: float, data: str, attention: str = "soft", **changed: Any) -> Record:
    """An accuracy of `softbench accuracy` on one task."""
    return measured("accuracy", value, measure="accuracy", unit="1", attention=attention, model=None,
                    **{"coords": {"data": data, "part": "answer"}, "detail": {"ci95": [0.3, 0.5]}} | changed)


def test_published_accuracies_of_long_range_arena_stand_beside_ours(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    records.append(file, [
        answer(0.37, "listops:max_length=2000:data=lra", "softmax"), answer(0.36, "listops:data=lra", "softmax"),
        answer(0.9, "listops", "softmax"),  # generated, not the official files
        answer(0.9, "mqar:data=lra", "softmax"),
        answer(0.9, "listops:data=lra", "softmax", coords={"data": "listops:data=lra", "part": "run"})])
    published, here = (task.run() for task in tasks(settings(tables="lra", trained=str(file))))
    printed = {(f.label, f.quantity, f.coords["origin"]): f for f in published}
    spread = [printed["performer", "listops", source].value for source in arena.SOURCES]
    assert spread == [0.18, 0.188, 0.38]
    assert all(f.quoted in arena.SOURCES.values() and f.detail["printed"] == f"{100 * f.value:.1f}" for f in published)
    ours = {(f.label, f.quantity): f for f in here}
    assert ours["softmax", "listops"].value == 0.37
    assert [key for key, f in ours.items() if f.status != "not_run"] == [("softmax", "listops")]
    assert len(ours) == 9 * 5
    assert set(arena.TASKS) == set(reproduce._ARENA)


def test_a_resumed_study_looks_at_other_trainings_again() -> None:
    names = {run.named(found) for found in ([], [trained(0.7, {})], [trained(0.8, {})], [trained(0.8, {})])}
    assert len(names) == 3


@pytest.mark.parametrize(("changed", "message"), [
    ({"tables": "variant"}, "Did you mean 'variants'"), ({"batch": "0"}, "batch must be at least 1"),
    ({"image": "abc"}, "image: 'abc' is not"), ({"device": "tpu"}, "No device named 'tpu'"),
    ({"image": "3"}, "at least 4")])
def test_bad_settings_are_told(changed: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        tasks(settings(**changed))


@pytest.fixture(scope="module")
def found() -> list[Record]:
    """The records of all tables, the large variants left out, with made-up measurements."""
    patch = pytest.MonkeyPatch()
    patch.setitem(paper.TABLES, "variants", paper.TABLES["variants"][:3])  # the large ones take a second each
    patch.setattr(run, "_measured", lambda rows, point, measure, call, batches: [
        measured("latency" if measure == "latency" else "peak_memory", 0.25 if measure == "latency" else 1e8 * batch,
                 unit="s" if measure == "latency" else "B") for batch in batches])
    try:
        study = session.start_study(Config(sweep=session.default().sweep, process=Process(threads=1), studies={
            "reproduce": {"device": "cpu", "trained": "", "image": "64"}}), "reproduce")
        return [record for _, group in study for record in group]
    finally:
        patch.undo()


def test_quoted_records_name_no_machine_and_measured_ones_do(found: list[Record]) -> None:
    quoted = [r for r in found if r.coords["origin"] == "paper"]
    mine = [r for r in found if r.coords["origin"] == "here"]
    assert quoted
    assert all(r.environment == {} and r.device is None and r.detail["source"] and r.detail["printed"] for r in quoted)
    assert all(r.environment["machine"] and r.device == "cpu" and "source" not in r.detail for r in mine)
    assert all(r.value is not None or r.status == "not_run" for r in found)
    assert all(records.from_json(r.to_json().encode()) == replace(r, detail=json.loads(r.to_json())["detail"])
               for r in found)


def test_quoted_records_of_two_machines_are_one(found: list[Record]) -> None:
    elsewhere = [replace(r, environment=r.environment and r.environment | {"machine": "other"}) for r in found]
    both = records.latest([*found, *elsewhere])
    counts = {origin: sum(r.coords["origin"] == origin for r in found) for origin in ("paper", "here")}
    assert len(both) == counts["paper"] + 2 * counts["here"]


def shown(view: str, found: list[Record]) -> str:
    [drawn] = [table for v in reproduce.VIEWS if v.name == view for table in reader.listed(v, found)]
    return "\n".join(" ".join(line.split()) for line in text.plain(drawn).splitlines())


def test_tables_show_the_paper_beside_what_is_here(found: list[Record]) -> None:
    variants = shown("variants", found)
    assert "\nsoft-tiny paper 13M 1.9G n/a 79.3" in variants
    assert "\nsoft-tiny here 13,069,056 1.877 2.116 not run" in variants
    assert "\nfloat32, cpu\n" in variants  # which quoted numbers are not
    assert "threads 1, malloc" in variants
    assert "tokens" not in variants
    attentions = shown("attentions", found)
    for line in ("soft-tiny paper 15.8GB 123MB", "soft-tiny here 200 MB 100 MB", "recalled, not read again",
                 "measured at 64 px"):
        assert line in attentions
    assert attentions.count("recalled") == 1  # one footnote for all rows
    assert shown("landmarks", found).index("\n36 paper") < shown("landmarks", found).index("\n81 here")
    assert "first paper 12.96M 1.9G" in shown("sampling", found)


@pytest.mark.parametrize("view", [v.name for v in reproduce.VIEWS if not hasattr(v, "by")])
def test_pictures_are_drawn(view: str, found: list[Record], tmp_path: Path) -> None:
    picture = next(v for v in reproduce.VIEWS if v.name == view)
    assert figures.plot(to_frame(found), tmp_path / "out.svg", view=picture)
    drawn = (tmp_path / "out.svg").read_text()
    words = {"parameters": "soft-small-d20", "gmac": "GMAC, all", "accuracy": "not run", "speed": "inference",
             "memory": "linformer-tiny", "memory_by_landmarks": "landmarks m"}
    assert words[view] in drawn
    assert "paper" in drawn
