"""The environment: plain values, nothing private, and a machine's name that depends on its hardware alone."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

import softbench
from softbench import environment

STATE = {"threads": 2, "malloc": "fixed", "denormals": "flush", "tf32": False}
XEON = {"cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz", "cores": 2, "memory": 23 * 2**30, "gpu": None,
        "gpu_memory": None, "driver": None}


def test_environment_is_plain_json_of_scalars() -> None:
    taken = environment.take(STATE, command="softbench latency")
    assert json.loads(json.dumps(taken, allow_nan=False)) == taken
    assert all(isinstance(value, str | int | float | None) for value in taken.values())
    assert taken.items() >= STATE.items()
    assert (taken["softbench"], taken["command"]) == (softbench.__version__, "softbench latency")
    assert set(environment.COMPARABLE) <= set(taken)
    assert taken["cores"] == len(os.sched_getaffinity(0))
    assert taken["gpu"] is None
    assert taken["cuda"] is None


def test_nothing_private_is_recorded() -> None:
    taken = environment.take(STATE)
    assert not {"host", "hostname", "node", "user", "home", "path", "pid"} & set(taken)
    text = json.dumps([v for key, v in taken.items() if key not in ("cpu", "gpu", "os", "machine")]).lower()
    assert "/" not in text
    private = {socket.gethostname(), os.uname().nodename, getpass.getuser()}
    assert [p for p in private if re.search(rf"\b{re.escape(p.lower())}\b", text)] == []
    assert taken["os"] == f"{os.uname().sysname} {os.uname().release}"


def test_machine_name_is_a_stable_slug() -> None:
    one, two = environment.take(STATE), environment.take(STATE | {"threads": 1}, command="other")
    assert one["machine"] == two["machine"]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*-\d+c-\d+g-[0-9a-f]{6}", one["machine"])


def test_machine_name_follows_the_hardware_and_nothing_else() -> None:
    name = environment._machine_name
    assert re.fullmatch(r"xeon-2-60ghz-2c-23g-[0-9a-f]{6}", name(XEON))
    assert name(XEON | {"driver": "550", "memory": 23 * 2**30 + 4096}) == name(XEON)
    changes: list[dict[str, Any]] = [
        {"cores": 4}, {"cpu": "AMD EPYC 7B13"}, {"memory": 64 * 2**30}, {"gpu": "NVIDIA H100 80GB HBM3"},
        {"gpu": "NVIDIA H100 80GB HBM3", "gpu_memory": 1}]
    assert len({name(XEON | change) for change in changes} | {name(XEON)}) == len(changes) + 1
    assert name(XEON | {"gpu": "NVIDIA H100 80GB HBM3"}).startswith("h100-80gb-hbm3-2c-23g-")
    assert re.fullmatch(r"cpu-2c-0g-[0-9a-f]{6}", name(XEON | {"cpu": "", "memory": None}))
    assert re.fullmatch(r"[a-z0-9-]+", name(XEON | {"cpu": "Zhaoxin 兆芯/KX (\n)"}))


def test_differences_name_what_cannot_be_compared() -> None:
    usual = environment.take(STATE)
    assert environment.differences(usual, usual | {"load": 9, "commit": "x", "command": "y", "python": "4"}) == []
    assert environment.differences({"threads": 1}, {"threads": 2}) == ["threads 1, here 2"]
    assert environment.differences({}, {"malloc": "fixed"}) == ["malloc None, here fixed"]
    for key in environment.COMPARABLE:
        assert len(environment.differences(usual, usual | {key: "other"})) == 1


@pytest.mark.parametrize(("line", "driver"), [
    ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023", "535.104.05"),
    ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (builder@host)", "570.86.15"),
    ("something else", None), (None, None),
])
def test_driver_is_read_from_both_kinds_of_kernel_module(monkeypatch: pytest.MonkeyPatch, line: str | None,
                                                         driver: str | None) -> None:
    monkeypatch.setattr(environment, "_read", lambda path: line)
    assert environment._driver() == driver


def test_machine_without_proc_still_has_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_read", lambda path: None)
    taken = environment.take(STATE)
    assert (taken["memory"], taken["governor"], taken["huge_pages"]) == (None, None, None)
    assert taken["machine"]
    assert environment.available_memory() is None


def test_available_memory_is_less_than_all(monkeypatch: pytest.MonkeyPatch) -> None:
    available, total = environment.available_memory(), environment.take(STATE)["memory"]
    assert available is not None
    assert 0 < available < total


def test_commit_and_whether_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
                       check=True, capture_output=True)

    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    init = tmp_path / "softbench" / "__init__.py"
    init.parent.mkdir()
    init.touch()
    monkeypatch.setattr(softbench, "__file__", str(init))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert environment._git() == (None, None)  # not a checkout
    git("init", "--quiet")
    assert environment._git() == (None, None)  # a checkout of something else
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    commit, dirty = environment._git()
    assert re.fullmatch("[0-9a-f]{12}", commit or "")
    assert dirty is False
    (tmp_path / "elsewhere.txt").touch()
    assert environment._git() == (commit, False)
    init.write_text("x = 1\n")
    assert environment._git() == (commit, True)
    monkeypatch.setenv("PATH", "")
    assert environment._git() == (None, None)  # no git
