"""Findings on machines put together from files, and that what cannot be read is never taken for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from softbench.machine import checks

CPU = "sys/devices/system/cpu"


def state(root: Path, what: str, files: dict[str, str], **keys: object) -> tuple[str, str]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    found = {one.what: one for one in checks.look(root, **keys)}[what]  # type: ignore[arg-type]
    assert (found.advice != "") == (found.state == checks.BAD)
    return found.state, found.value


@pytest.mark.parametrize(("what", "files", "expected"), [
    ("load", {"proc/loadavg": "0.12 0.3 0.4 1/99 7\n"}, "ok"),
    ("load", {"proc/loadavg": "3.50 0.3 0.4 1/99 7\n"}, "attend"),
    ("load", {}, "unknown"),
    ("memory pressure", {"proc/pressure/memory": "some avg10=0.00 avg60=9.00\n"}, "ok"),
    ("memory pressure", {"proc/pressure/memory": "some avg10=47.13 avg60=0.00\n"}, "attend"),
    ("memory pressure", {"proc/pressure/memory": "rubbish"}, "unknown"),
    ("governor", {f"{CPU}/cpu0/cpufreq/scaling_governor": "performance\n"}, "ok"),
    ("governor", {f"{CPU}/cpu0/cpufreq/scaling_governor": "performance\n",
                  f"{CPU}/cpu1/cpufreq/scaling_governor": "powersave\n"}, "attend"),
    ("governor", {}, "unknown"),
    ("turbo", {f"{CPU}/intel_pstate/no_turbo": "1\n"}, "ok"),
    ("turbo", {f"{CPU}/intel_pstate/no_turbo": "0\n"}, "attend"),
    ("turbo", {f"{CPU}/cpufreq/boost": "0\n"}, "ok"), ("turbo", {f"{CPU}/cpufreq/boost": "1\n"}, "attend"),
    ("turbo", {}, "unknown"),
    ("CPU quota", {"sys/fs/cgroup/cpu.max": "max 100000\n"}, "ok"),
    ("CPU quota", {"sys/fs/cgroup/cpu.max": "10000 100000\n"}, "attend"),
    ("CPU quota", {"sys/fs/cgroup/cpu.max": "99900000 100000\n"}, "ok"),
    ("throttling", {f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "0\n"}, "ok"),
    ("throttling", {f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3\n"}, "attend"),
    ("throttling", {}, "unknown"),
    ("SMT", {f"{CPU}/smt/active": "0\n"}, "ok"), ("SMT", {f"{CPU}/smt/active": "1\n"}, "attend"),
    ("SMT", {}, "unknown"),
])
def test_findings_from_files(tmp_path: Path, what: str, files: dict[str, str], expected: str) -> None:
    assert state(tmp_path, what, files)[0] == expected


@pytest.mark.parametrize(("busy", "expected"), [(0.0, "ok"), (0.05, "ok"), (0.06, "attend"), (None, "unknown")])
def test_other_processes(tmp_path: Path, busy: float | None, expected: str) -> None:
    assert state(tmp_path, "other processes", {}, busy=busy)[0] == expected


@pytest.mark.parametrize(("kept", "expected"), [("flush", "ok"), ("keep", "attend"), ("partial", "attend"),
                                                ("", "unknown")])
def test_subnormals(tmp_path: Path, kept: str, expected: str) -> None:
    assert state(tmp_path, "subnormals", {}, denormals=kept)[0] == expected


def test_a_quota_says_how_many_threads_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "available_cores", lambda: 8)
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("350000 100000")
    (found,) = (one for one in checks.look(tmp_path) if one.what == "CPU quota")
    assert found.value == "3.5 cores of 8: calls are cut off in mid-run"
    assert found.advice.startswith("--threads 3,")


SMI = '''#!/bin/sh
case "$1" in
  --query-compute-apps*) printf "APPS" ;;
  *) echo "REASON" ;;
esac
'''


@pytest.mark.parametrize(("apps", "reason", "processes", "throttling"), [
    ("", "0x0000000000000000", "ok", "ok"), ("", "0x0000000000000001", "ok", "ok"),
    ("", "0x0000000000000002", "ok", "ok"), ("", "0x0000000000000020", "ok", "attend"),
    ("4242, python\\n", "0x0000000000000004", "attend", "attend"), ("", "[Not Supported]", "ok", "ok")])
def test_a_gpu_by_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apps: str, reason: str,
                                       processes: str, throttling: str) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(SMI.replace("APPS", apps).replace("REASON", reason))
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = {one.what: one.state for one in checks.look(tmp_path)}
    assert (found["GPU processes"], found["GPU throttling"]) == (processes, throttling)


def test_no_gpu_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not [one for one in checks.look(tmp_path) if "GPU" in one.what]


def test_this_machine_can_be_looked_at() -> None:
    assert {one.state for one in checks.look(busy=0.0)} <= {"ok", "attend", "unknown"}
