"""Child processes: a case that is killed, hangs or takes too much memory is a row."""

from __future__ import annotations

import plugin_files
import pytest

from softbench import config
from softbench.bench import session
from softbench.bench.isolate import isolated


def rows_of(attn: str, *, limit: int | None = None, timeout: float | None = None, **keys):
    flags = {"sweep": {"attn": attn, "baseline": "none", "tokens": "16", "heads": "2", "head_dim": "8", "device": "cpu",
                       **keys}, "process": {"malloc": "default"}, "latency": {"rep": "2", "warmup": "1", "rounds": "1"}}
    settings = config.load(None, flags=flags)
    made = session.start(settings, "latency", timeout=timeout)
    return {r.attention: r for _, group in isolated(made, settings.process, limit) for r in group}


def test_what_kills_a_child_becomes_a_row(tmp_path):
    killed, aborted = (plugin_files.write(tmp_path, name) for name in ("killed", "aborted"))
    rows = rows_of(f"{killed},{aborted},soft:landmarks=4")
    assert rows["killed"].status == "oom"
    assert "SIGKILL" in rows["killed"].note
    assert rows["aborted"].status == "failed"
    assert "SIGABRT" in rows["aborted"].note
    assert rows["soft"].status == "ok"
    assert rows["soft"].options["landmarks"] == 4
    assert rows["soft"].value > 0


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
