"""Child processes: a case that is killed, hangs or takes too much memory is a row."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import plugin_files
import pytest

from softbench import config
from softbench.bench import isolate, session
from softbench.processes import child


def rows_of(attn: str, *, limit: int | None = None, timeout: float | None = None, **keys):
    flags = {"sweep": {"attn": attn, "baseline": "none", "tokens": "16", "heads": "2", "head_dim": "8", "device": "cpu",
                       **keys}, "process": {"malloc": "default"}, "latency": {"rep": "2", "warmup": "1", "rounds": "1"}}
    settings = config.load(None, flags=flags)
    made = session.start(settings, "latency", timeout=timeout, isolate=True, memory_limit=limit)
    return {r.attention: r for _, group in made for r in group}


def test_what_kills_a_child_becomes_a_row(tmp_path):
    killed, aborted = (plugin_files.write(tmp_path, name) for name in ("killed", "aborted"))
    rows = rows_of(f"{killed},{aborted},soft:landmarks=4")
    assert rows["killed"].status == "failed"  # nothing says that memory ran out
    assert "SIGKILL" in rows["killed"].note
    assert rows["aborted"].status == "failed"
    assert "SIGABRT" in rows["aborted"].note
    assert rows["soft"].status == "ok"
    assert rows["soft"].options["landmarks"] == 4
    assert rows["soft"].value > 0


def test_a_child_that_ends_well_without_a_result_has_failed(tmp_path):
    row = rows_of(plugin_files.write(tmp_path, "vanishes"))["vanishes"]
    assert (row.status, row.value) == ("failed", None)
    assert row.note == "the child process ended with 0 and gave no result"


def test_what_a_plugin_leaves_running_does_not_hold_its_result_up(tmp_path):
    started = time.perf_counter()
    assert rows_of(plugin_files.write(tmp_path, "lingers"))["lingers"].status == "ok"
    assert time.perf_counter() - started < 120


@pytest.mark.parametrize("name", ["random", "types", "profile", "json", "torch", "softbench", "sitecustomize"])
def test_files_of_the_working_directory_shadow_nothing(tmp_path, monkeypatch, name):
    (tmp_path / f"{name}.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    answer = child_says("import random, types, profile, json, multiprocessing as m, sys\n"
                        "print('' in sys.path, m.get_context('spawn').Pool(1).apply(random.Random, (0,)).random() > 0)")
    assert answer == "False True"


def child_says(code):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [Path(__file__).parents[1]]))}
    with child.started("-c", code, environment=environment) as running:
        out, _ = running.process.communicate()
        assert running.said() == ""
    return out.strip()


def test_what_a_plugin_prints_is_no_answer(tmp_path):
    row = rows_of(plugin_files.write(tmp_path, "loud"))["loud"]
    assert (row.status, row.note) == ("ok", "")


def test_memory_limit(tmp_path):
    hungry = plugin_files.write(tmp_path, "hungry")  # 512 MiB in one call
    assert rows_of(hungry, limit=500 << 20)["hungry"].status == "oom"
    row = rows_of(hungry, limit=700 << 20)["hungry"]
    assert (row.status, row.note) == ("ok", "")
    assert row.environment["malloc"] == "default"


@pytest.mark.quiet
def test_timeout_ends_the_child(tmp_path):
    slow = plugin_files.write(tmp_path, "slow")
    row = rows_of(slow, timeout=0.8, tokens="2k", heads="1")["slow"]
    assert (row.status, row.note) == ("timeout", "no result within 0.8 s")


@pytest.mark.parametrize("name", ["nan", "raises"])
def test_ordinary_failures_are_told_as_without_isolation(tmp_path, name):
    row = rows_of(plugin_files.write(tmp_path, name))[name]
    assert row.status == "failed"
    assert row.note in ("the output is not finite", "ZeroDivisionError: division by zero")


@pytest.mark.parametrize(("timeout", "order"), [(1.0, ["import", "limit", "ready"]), (None, ["limit", "ready"])])
def test_no_case_is_charged_for_the_imports_that_a_timeout_needs(monkeypatch, timeout, order):
    did = []

    @contextlib.contextmanager
    def answering():
        did.append("ready")
        yield did.append

    monkeypatch.setattr(isolate, "asked", lambda: ({"timeout": timeout, "memory_limit": 1}, {}))
    monkeypatch.setattr(isolate, "import_whole", lambda: did.append("import"), raising=False)
    monkeypatch.setattr(isolate, "limit_memory", lambda limit: did.append("limit"))
    monkeypatch.setattr(isolate, "answering", answering)
    monkeypatch.setattr(isolate, "_child", lambda *given: [])
    isolate.main()
    assert did == order
