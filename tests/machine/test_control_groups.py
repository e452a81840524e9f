"""Limits of control groups: both versions, nested ones, and those of a container that does not see where it stands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from softbench.machine import checks, device
from softbench.machine import control_groups as groups
from softbench.machine import cores as machine_cores
from softbench.machine.cores import usable_cores

V2 = "30 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = ("32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
      "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "36 31 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n")
STANDS_V1 = "5:memory:/a/b\n4:cpu,cpuacct:/a/b\n0::/a/b\n"
MIB = 1 << 20


def tree(root: Path, mounts: str, stands: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/mountinfo": mounts, "proc/self/cgroup": stands, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(("mounts", "stands", "files", "cores"), [
    (V2, "0::/\n", {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),
    (V2, "0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "max 100000", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, 0.5),
    (V2, "0::/a/b\n", {"sys/fs/cgroup/a/b/cpu.max": "20000 100000", "sys/fs/cgroup/a/cpu.max": "50000 100000"}, 0.2),
    (V2, "0::/a\n", {"sys/fs/cgroup/other/cpu.max": "50000 100000"}, None),
    (V2.replace("0:26 /", "0:26 /docker/x"), "0::/docker/x/y\n", {"sys/fs/cgroup/y/cpu.max": "50000 100000"}, 0.5),
    (V2.replace("0:26 /", "0:26 /docker/x"), "0::/docker/xyz\n", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
    (V2, "0::/host/path/unseen\n", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
    (V2, "0::/../outside\n", {"sys/fs/cgroup/cpu.max": "50000 100000", "sys/fs/outside/cpu.max": "1 9"}, 0.5),
    (V1, STANDS_V1, {"sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "50000",
                     "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000"}, 0.5),
    (V1, STANDS_V1, {"sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1",
                     "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us": "100000",
                     "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "300000",
                     "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "200000"}, 1.5),
    (V1, "4:cpu,cpuacct:/\n", {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                               "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000"}, None),
    (V2, "0::/\n", {"sys/fs/cgroup/cpu.max": "rubbish"}, None),
    ("", "", {"sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
])
def test_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mounts: str, stands: str, files: dict[str, str],
               cores: float | None) -> None:
    root = tree(tmp_path, mounts, stands, files)
    assert groups.quota(root) == cores
    monkeypatch.setattr(machine_cores, "available_cores", lambda: 8)
    (found,) = (one for one in checks.look(root) if one.what == "CPU quota")
    assert (found.state == "attend") == (cores is not None)


@pytest.mark.parametrize(("mounts", "stands", "files", "free"), [
    (V2, "0::/\n", {"sys/fs/cgroup/memory.max": f"{9 * MIB}", "sys/fs/cgroup/memory.current": f"{2 * MIB}"}, 7),
    (V2, "0::/\n", {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": f"{2 * MIB}"}, None),
    (V2, "0::/a\n", {"sys/fs/cgroup/a/memory.max": f"{9 * MIB}", "sys/fs/cgroup/a/memory.current": "0",
                     "sys/fs/cgroup/memory.max": f"{5 * MIB}", "sys/fs/cgroup/memory.current": f"{MIB}"}, 4),
    (V2, "0::/\n", {"sys/fs/cgroup/memory.max": f"{9 * MIB}", "sys/fs/cgroup/memory.current": f"{8 * MIB}",
                    "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {5 * MIB}\n"}, 6),
    (V2, "0::/\n", {"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.high": f"{3 * MIB}",
                    "sys/fs/cgroup/memory.current": "0"}, 3),
    (V1, STANDS_V1, {"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": "9223372036854771712",
                     "sys/fs/cgroup/memory/a/b/memory.usage_in_bytes": "0"}, None),
    (V1, STANDS_V1, {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{9 * MIB}",
                     "sys/fs/cgroup/memory/a/memory.usage_in_bytes": f"{8 * MIB}",
                     "sys/fs/cgroup/memory/a/memory.stat": f"inactive_file 0\ntotal_inactive_file {MIB}\n"}, 2),
    (V1, STANDS_V1, {"sys/fs/cgroup/memory/a/b/memory.limit_in_bytes": f"{MIB}",
                     "sys/fs/cgroup/memory/a/b/memory.usage_in_bytes": f"{3 * MIB}"}, 0),
])
def test_free_memory(tmp_path: Path, mounts: str, stands: str, files: dict[str, str], free: int | None) -> None:
    assert groups.free_memory(tree(tmp_path, mounts, stands, files)) == (None if free is None else free * MIB)


def test_kills_rise_with_any_count(tmp_path: Path) -> None:
    files = {"sys/fs/cgroup/memory.events": "oom 3\noom_kill 2\n"}
    assert groups.kills(tree(tmp_path, V2, "0::/\n", files)) == 2
    assert groups.kills(tree(tmp_path, V2, "0::/\n", {"proc/vmstat": "pgfault 9\noom_kill 5\n"})) == 7
    assert groups.kills(tree(tmp_path / "none", V2, "0::/\n", {})) is None


def test_a_group_bounds_memory_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    available = device.free("cpu")
    assert available is not None
    monkeypatch.setattr(groups, "free_memory", lambda: 400_000)
    assert device.free("cpu") == 400_000
    monkeypatch.setattr(groups, "quota", lambda: None)
    monkeypatch.setattr(machine_cores, "available_cores", lambda: 8)
    assert usable_cores() == 8
    for quota, cores in ((3.5, 3), (0.5, 1), (64.0, 8)):
        monkeypatch.setattr(groups, "quota", lambda quota=quota: quota)
        assert usable_cores() == cores


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/cpu", os.W_OK) or os.geteuid() != 0,
                    reason="needs root and a hierarchy of version 1")
def test_this_process_in_a_group_of_its_own() -> None:
    group = Path(f"/sys/fs/cgroup/cpu/softbench-test-{os.getpid()}")
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text("50000")
        child = os.fork()
        if child == 0:
            (group / "cgroup.procs").write_text(str(os.getpid()))
            os._exit(0 if groups.quota() == 0.5 else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        group.rmdir()
