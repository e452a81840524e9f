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
from softbench.machine import checkout, control_groups, device, environment

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
    monkeypatch.setattr(control_groups, "read", lambda path: line)
    assert device._driver() == driver


def test_machine_without_proc_still_has_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "read", lambda path: None)
    monkeypatch.setattr(control_groups, "read", lambda path: None)
    monkeypatch.setattr(control_groups, "free_memory", lambda: None)
    taken = environment.take(STATE)
    assert (taken["memory"], taken["governor"], taken["huge_pages"]) == (None, None, None)
    assert taken["machine"]
    assert device.free("cpu") is None


def test_available_memory_is_less_than_all(monkeypatch: pytest.MonkeyPatch) -> None:
    available, total = device.free("cpu"), environment.take(STATE)["memory"]
    assert available is not None
    assert 0 < available < total


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
                   check=True, capture_output=True, env=checkout.environment())


def commit_of() -> tuple[str | None, bool | None]:
    taken = environment.take(STATE)
    return taken["commit"], taken["dirty"]


def test_commit_and_whether_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init = tmp_path / "softbench" / "__init__.py"
    init.parent.mkdir()
    init.touch()
    monkeypatch.setattr(softbench, "__file__", str(init))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit_of() == (None, None)  # not a checkout
    git(tmp_path, "init", "--quiet")
    assert commit_of() == (None, None)  # a checkout of something else
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    commit, dirty = commit_of()
    assert re.fullmatch("[0-9a-f]{12}", commit or "")
    assert dirty is False
    (tmp_path / "elsewhere.txt").touch()
    assert commit_of() == (commit, False)
    init.write_text("x = 1\n")
    assert commit_of() == (commit, True)
    git(tmp_path, "checkout", "--quiet", "--", ".")
    (tmp_path / ".git/info/exclude").write_text("mine.py\n")
    (init.parent / "mine.py").touch()
    assert commit_of() == (commit, True)  # git ignores it, `softbench list` does not
    monkeypatch.setenv("PATH", "")
    assert commit_of() == (None, None)  # no git


@pytest.mark.parametrize("place", [".venv/site", "vendored", "linked"])
def test_a_repository_around_the_package_is_not_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                        place: str) -> None:
    """Ignored in an environment, tracked in a folder of somebody else's repository, or linked into one."""
    outer, package = tmp_path / "outer", tmp_path / "outer" / place / "softbench"
    outer.mkdir()
    git(outer, "init", "--quiet")
    (outer / ".gitignore").write_text(".venv\n")
    real = tmp_path / "real/softbench" if place == "linked" else package
    real.mkdir(parents=True)
    (real / "__init__.py").touch()
    if place == "linked":
        package.parent.symlink_to(real.parent)
    git(outer, "add", "-A")
    git(outer, "commit", "--quiet", "-m", "theirs")
    monkeypatch.setattr(softbench, "__file__", str(package / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert commit_of() == (None, None)
    monkeypatch.setenv("GIT_DIR", str(outer / ".git"))  # as in a hook of that repository
    monkeypatch.setenv("GIT_WORK_TREE", str(package.parent))
    assert commit_of() == (None, None)


def test_a_worktree_and_a_hook_tell_the_packages_own_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main, other = tmp_path / "main", tmp_path / "other"
    for folder in (main, other):
        (folder / "softbench").mkdir(parents=True)
        (folder / "softbench/__init__.py").write_text(folder.name)
        git(folder, "init", "--quiet")
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", folder.name)
    git(main, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    monkeypatch.setattr(softbench, "__file__", str(tmp_path / "tree/softbench/__init__.py"))
    own = commit_of()
    assert own[0]
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert commit_of() == own


def test_a_quota_tells_machines_apart_and_none_changes_no_name() -> None:
    name = environment._machine_name
    assert name(XEON | {"cpu_quota": None}) == name(XEON)
    assert len({name(XEON), name(XEON | {"cpu_quota": 0.5}), name(XEON | {"cpu_quota": 1.5})}) == 3
