"""Modules that moved are still imported by the names that scripts of others know."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from softbench import _former

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", _former.NOW)
def test_a_former_name_gives_what_is_there_now(name: str) -> None:
    place = f"softbench.{_former.NOW[name]}"
    now = importlib.import_module(place)
    sys.modules.pop(f"softbench.{name}", None)
    with pytest.warns(DeprecationWarning, match=f"{place} now"):
        former = importlib.import_module(f"softbench.{name}")
    public = [key for key in vars(now) if not key.startswith("_")]
    assert public
    assert all(getattr(former, key) is getattr(now, key) for key in public)
    assert now.__spec__ is not None
    assert now.__spec__.name == place


def test_a_script_of_others_runs_as_it_did() -> None:
    code = ("from softbench import environment, process\n"
            "print(environment.differences({}, {}) == [], process.Process(threads=1))")
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
                          env={"PYTHONPATH": str(ROOT)})
    assert done.stdout.startswith("True Process(threads=1")
    assert "softbench.machine.environment now" in done.stderr


def test_names_that_never_were_are_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("softbench.nothing")


@pytest.mark.parametrize("name", ["views", "session", "gate.machine"])
def test_modules_of_others_are_no_former_ones(name: str) -> None:
    assert name in _former.NOW
    assert _former._Former.find_spec(f"softbench.{name}")
    assert _former._Former.find_spec(name) is None
    assert _former._Former.find_spec(f"others.{name}") is None
