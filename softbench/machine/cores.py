"""Cores: how many this process may run on, and how many it can keep busy."""

from __future__ import annotations

import os

from softbench.machine import control_groups


def available_cores() -> int:
    """Cores that this process may run on (its affinity mask, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """Cores that this process can keep busy: no more than its control groups' CPU quota, beyond which it is halted."""
    quota = control_groups.quota()
    return available_cores() if quota is None else max(1, min(available_cores(), int(quota)))
