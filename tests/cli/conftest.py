"""Running commands: in this process, and as a child of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softbench.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder, so that no bench.toml and no results/ of the checkout take part."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process; returns exit code, stdout, stderr."""
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["softbench", *arguments])
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.Popen[str]]:
    """Starts a command in a child process, with further folders on its sys.path."""
    def process(*arguments: str, paths: tuple[Path, ...] = (), **keys: Any) -> subprocess.Popen[str]:
        found = os.pathsep.join(map(str, (ROOT, *paths)))
        environment = {**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-m", "softbench", *arguments], env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, **keys)

    return process
