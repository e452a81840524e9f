"""Only what a bench.toml changes reaches the versions under test: an older one need not know all of its keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from softbench import config
from softbench.errors import UsageError
from softbench.gate import settings, source

Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Makes a working directory whose bench.toml holds this text."""
    monkeypatch.chdir(tmp_path)
    return lambda text: Path("bench.toml").write_text(text, encoding="utf-8") and None


@pytest.mark.parametrize("text", [config.defaults(), (source.HERE / "bench.toml").read_text()],
                         ids=["all defaults", "the repository's"])
def test_a_bench_toml_of_defaults_changes_nothing(write: Write, text: str) -> None:
    write(text)
    assert settings.changed() == ""


def test_no_file_changes_nothing(write: Write) -> None:
    assert settings.changed() == ""


def test_what_differs_is_kept_and_read_back_as_it_was(write: Write) -> None:
    text = ('[sweep]\nheads = 8\nhead_dim = [32, 64]\ninputs = "structured"\n[process]\ntf32 = true\n'
            '[latency]\nrep = 500\nrounds = 9\n[fit]\nbatch = 1\n[attention.soft]\nlandmarks = 64\n')
    write(text)
    kept = settings.changed()
    assert [line.partition(" ")[0].strip('"') for line in kept.splitlines()] == [
        "[sweep]", "head_dim", "inputs", "[process]", "tf32", "[latency]", "rounds", '[attention."soft"]', "landmarks"]
    before = config.load(Path("bench.toml"))
    write(kept)
    after = config.load(Path("bench.toml"))
    assert (after.sweep, after.process, after.attention) == (before.sweep, before.process, before.attention)


def test_a_wrong_file_is_said(write: Write) -> None:
    write("[fits]\nx = 1\n")
    with pytest.raises(UsageError, match="No section named 'fits'"):
        settings.changed()
