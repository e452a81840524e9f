"""Machine checks: what on this machine makes timings doubtful, each with what to do about it.

Everything is read from files below a root, so that tests can put a machine together; what cannot be read is unknown,
never taken for good.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from softbench.machine import control_groups
from softbench.machine.control_groups import read
from softbench.machine.cores import available_cores

GOOD, BAD, UNKNOWN = "ok", "attend", "unknown"
_HARMLESS = 0x1 | 0x2  # of NVML's reasons for a lower clock: nothing to do, and clocks that somebody has set
_BUSY, _PRESSED = 0.05, 1.0  # share of the CPU; per cent of the time


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `advice` where it is not as it should be."""

    what: str
    state: str
    value: str
    advice: str = ""


def look(root: Path = Path("/"), busy: float | None = None, denormals: str = "") -> list[Finding]:
    """All findings about the machine whose files lie below `root`.

    Args:
        busy: share of the CPU that other processes took just now; None where nobody could tell.
        denormals: what the process does with subnormal numbers: "flush", "keep" or "partial".
    """
    return [_others(busy), _load(root), _memory(root), _governor(root), _turbo(root), _quota(root), _throttling(root),
            _siblings(root), _denormals(denormals), *_gpu()]


def _others(busy: float | None) -> Finding:
    what = "other processes"
    if busy is None:
        return Finding(what, UNKNOWN, "no /proc/stat")
    value = f"{100 * busy:.0f} % of the CPU"
    return Finding(what, GOOD, value) if busy <= _BUSY else Finding(
        what, BAD, value, "stop them, or use a machine of your own: `top` shows who they are")


def _load(root: Path) -> Finding:
    text = read(root / "proc/loadavg")
    if not text:
        return Finding("load", UNKNOWN, "no /proc/loadavg")
    load = float(text.split()[0])
    return Finding("load", GOOD, f"{load:.2f}") if load < 0.5 else Finding(
        "load", BAD, f"{load:.2f} over the last minute", "wait until it is below 0.5")


def _memory(root: Path) -> Finding:
    match = re.search(r"some avg10=([\d.]+)", read(root / "proc/pressure/memory") or "")
    if match is None:
        return Finding("memory pressure", UNKNOWN, "no /proc/pressure/memory")
    share = float(match[1])
    value = f"stalled {share:.1f} % of the last 10 s"
    return Finding("memory pressure", GOOD, value) if share < _PRESSED else Finding(
        "memory pressure", BAD, value, "free memory: close what holds it, or measure smaller cases")


def _governor(root: Path) -> Finding:
    folder = root / "sys/devices/system/cpu"
    governors = sorted({text for path in folder.glob("cpu[0-9]*/cpufreq/scaling_governor") if (text := read(path))})
    if not governors:
        return Finding("governor", UNKNOWN, "the machine does not say (usual in a virtual machine)")
    return Finding("governor", GOOD, "performance") if governors == ["performance"] else Finding(
        "governor", BAD, ", ".join(governors), "sudo cpupower frequency-set -g performance")


def _turbo(root: Path) -> Finding:
    folder = root / "sys/devices/system/cpu"
    off, boost = read(folder / "intel_pstate/no_turbo"), read(folder / "cpufreq/boost")
    if not off and not boost:
        return Finding("turbo", UNKNOWN, "the machine does not say")
    if off == "1" or boost == "0":
        return Finding("turbo", GOOD, "off")
    how = "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo" if off is not None else \
        "echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
    return Finding("turbo", BAD, "on: the clock follows temperature and load", how)


def _quota(root: Path) -> Finding:
    cores = control_groups.quota(root)
    if cores is None:
        return Finding("CPU quota", GOOD, "none")
    return Finding("CPU quota", GOOD, f"{cores:.1f} cores") if cores >= available_cores() else Finding(
        "CPU quota", BAD, f"{cores:.1f} cores of {available_cores()}: calls are cut off in mid-run",
        f"--threads {max(1, int(cores))}, or raise the container's limit")


def _throttling(root: Path) -> Finding:
    counts = [int(text) for path in root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")
              if (text := read(path)) and text.isdigit()]
    if not counts:
        return Finding("throttling", UNKNOWN, "the machine does not say")
    return Finding("throttling", GOOD, "never since boot") if not any(counts) else Finding(
        "throttling", BAD, f"{sum(counts)} times since boot", "cool the machine, or lower its clock")


def _siblings(root: Path) -> Finding:
    active = read(root / "sys/devices/system/cpu/smt/active")
    if not active:
        return Finding("SMT", UNKNOWN, "the machine does not say")
    return Finding("SMT", GOOD, "off") if active == "0" else Finding(
        "SMT", BAD, "on: two threads share a core",
        f"--threads {max(1, available_cores() // 2)}, or turn it off")


def _denormals(state: str) -> Finding:
    if not state:
        return Finding("subnormals", UNKNOWN, "not looked at")
    return Finding("subnormals", GOOD, "flushed to zero") if state == "flush" else Finding(
        "subnormals", BAD, state, "--denormals flush: they slow matrix products tenfold")


def _gpu() -> list[Finding]:
    """Other processes on the GPU, its throttling and clocks; nothing where there is no nvidia-smi."""
    names = _smi("--query-compute-apps=pid,process_name")
    if names is None:
        return []
    others = [line for line in names if line.split(",")[0].strip() != str(os.getpid())]
    findings = [Finding("GPU processes", GOOD, "none") if not others else Finding(
        "GPU processes", BAD, "; ".join(others)[:200], "stop them, or choose another GPU with CUDA_VISIBLE_DEVICES")]
    reasons = _smi("--query-gpu=clocks_throttle_reasons.active") or []
    readable = all(re.fullmatch(r"0x[0-9a-fA-F]+", reason) for reason in reasons)
    active = [reason for reason in reasons if readable and int(reason, 16) & ~_HARMLESS]
    findings.append(Finding("GPU throttling", GOOD, "none") if not active else Finding(
        "GPU throttling", BAD, ", ".join(active), "nvidia-smi -q -d PERFORMANCE says why; lock the clocks with -lgc"))
    return findings


def _smi(query: str) -> list[str] | None:
    try:
        done = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True,
                              timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else None
