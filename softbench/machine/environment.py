"""The environment: everything about this machine, software and process that a number may depend on.

It is taken once a run and carried by every record. `machine` is a short name made from the hardware alone, equal on
equal machines; no host name or user is recorded, and no path but those that the user typed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import softbench
from softbench import plugins
from softbench._version import __version__
from softbench.machine import checkout, control_groups
from softbench.machine.control_groups import read
from softbench.machine.cores import available_cores
from softbench.records import COMPARABLE as COMPARABLE


def take(process: dict[str, Any], device: str = "cpu", command: str = "") -> dict[str, Any]:
    """The environment of this run.

    Args:
        process: what `softbench.processes.setup.apply` returned.
        command: what the user typed, as far as they may run it again.
    """
    import torch

    from softbench.machine.device import describe

    package = Path(softbench.__file__).parent
    commit, dirty = checkout.commit(package)
    processor = describe(device)
    cuda = processor.pop("cuda")
    hardware = _cpu() | processor
    return {
        "machine": _machine_name(hardware),
        **hardware,
        **process,
        "softbench": __version__,
        "commit": commit,
        "dirty": dirty,
        "code": plugins.digest(package.rglob("*.py")) if dirty or commit is None else None,
        "plugins": plugins.codes(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": cuda,
        "triton": _version("triton"),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "interop_threads": torch.get_num_interop_threads(),
        "os": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "huge_pages": _bracketed(read("/sys/kernel/mm/transparent_hugepage/enabled")),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "command": command,
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Say what makes numbers of two environments not comparable: "threads 1, here 2", and so on."""
    return [f"{key} {one.get(key)}, here {other.get(key)}" for key in COMPARABLE if one.get(key) != other.get(key)]


def _cpu() -> dict[str, Any]:
    total = re.search(r"MemTotal:\s+(\d+) kB", read("/proc/meminfo") or "")
    name = re.search(r"model name\s*:\s*(.+)", read("/proc/cpuinfo") or "")
    return {
        "cpu": name[1].strip() if name else platform.processor() or platform.machine(),
        "cores": available_cores(),
        "cpu_quota": control_groups.quota(),
        "memory": int(total[1]) * 1024 if total else None,
    }


def _machine_name(hardware: dict[str, Any]) -> str:
    """`xeon-2c-23g-1a2b3c`: chip, cores, memory in GiB, and a digest of the exact hardware."""
    chip = hardware["gpu"] or hardware["cpu"]
    ignored = {"intel", "amd", "r", "tm", "cpu", "processor", "core", "nvidia", "graphics", "with", "ghz"}
    words = [w for w in re.findall(r"[a-z0-9]+", chip.lower()) if w not in ignored]
    gib = round((hardware["memory"] or 0) / 2**30)
    exact = "|".join(str(hardware[k]) for k in ("cpu", "cores", "gpu", "gpu_memory")) + f"|{gib}"
    exact += f"|{hardware['cpu_quota']}" if hardware.get("cpu_quota") else ""
    digest = hashlib.sha256(exact.encode()).hexdigest()[:6]
    return "-".join([*(words[:3] or ["cpu"]), f"{hardware['cores']}c", f"{gib}g", digest])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _bracketed(text: str | None) -> str | None:
    match = re.search(r"\[(\w+)\]", text or "")
    return match[1] if match else None
