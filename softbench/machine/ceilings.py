"""Ceilings: the two rates that no kernel here can exceed, kept by machine, and the time that no call can go below.

`softbench roofline` measures bytes a second (a large copy) and FLOP a second (a large matrix product, by dtype) once,
and keeps its records in `$XDG_CACHE_HOME/softbench/`, in a file of that machine and device. A call that must move b
bytes and do f FLOP in a dtype takes at least

    floor = max(b / bandwidth, f / rate[dtype]),    and floor / (time measured) is the share of the limit it reaches.

The bandwidth is that of memory. Where the tensors of a call stay in a cache from one call to the next, as small ones do
on a CPU, the floor by bytes does not bind, and the share may exceed 1. The rate is that of the dtype of the inputs: an
attention that computes half precision in float32, as most do on a CPU, cannot reach it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softbench import records
from softbench.errors import ResultsError
from softbench.records import Record

BANDWIDTH, RATE = "bandwidth", "flop_rate"  # quantities of the study's records
_DECISIVE = ("machine", "threads", "tf32", "torch", "cuda")  # of the environment: what rates depend on


@dataclass(frozen=True)
class Ceilings:
    """Bytes a second, and FLOP a second by dtype."""

    bandwidth: float
    rates: Mapping[str, float]

    def limit(self, moved: float, flops: float, dtype: str, seconds: float | None) -> dict[str, Any]:
        """Say of a call's limit, for its record: its floor in seconds, the share reached, which ceiling it is.

        Args:
            moved: bytes that must be read and written.
            seconds: the time measured; None where there is none.
        Returns:
            Nothing for a dtype whose rate is not known.
        """
        if dtype not in self.rates:
            return {}
        by_bytes, by_flops = moved / self.bandwidth, flops / self.rates[dtype]
        floor = max(by_bytes, by_flops)
        return {"floor": floor, "share": floor / seconds if seconds else None,
                "bound": "bytes" if by_bytes >= by_flops else "flops", BANDWIDTH: self.bandwidth,
                RATE: self.rates[dtype]}


def path(environment: Mapping[str, Any], device: str) -> Path:
    """The file that holds the ceilings of this machine and kind of device. Raises ResultsError without a home."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(cache):  # no HOME, and a user that the system does not know
        raise ResultsError("There is no home directory: set HOME, or XDG_CACHE_HOME to a folder that can be written.")
    root = Path(cache)
    return root / "softbench" / f"roofline-{environment.get('machine')}-{device.partition(':')[0]}.jsonl"


def recall(environment: Mapping[str, Any], device: str) -> list[Record]:
    """The latest records of the ceilings of this machine, as it is set up now; none where they were not measured."""
    try:
        rows, _ = records.read(path(environment, device))
    except ResultsError:
        return []
    return records.latest(r for r in rows if r.status == "ok"
                          and all(r.environment.get(key) == environment.get(key) for key in _DECISIVE))


def remember(rows: Iterable[Record], environment: Mapping[str, Any], device: str) -> Path:
    """Keep records of ceilings; returns the file. Raises ResultsError where it cannot be written."""
    target = path(environment, device)
    try:
        records.append(target, rows)
    except ResultsError as error:
        reason = getattr(error.__cause__, "strerror", error)
        raise ResultsError(f"Cannot write {target}: {reason}. Set XDG_CACHE_HOME to a folder that can be"
                           " written.") from error
    return target


def load(environment: Mapping[str, Any], device: str) -> Ceilings | None:
    """The ceilings of this machine; None until `softbench roofline` has measured them."""
    if "machine" not in environment:
        return None
    rows = sorted(recall(environment, device), key=lambda record: record.started)
    bandwidth = [r.value for r in rows if r.quantity == BANDWIDTH and r.value]
    rates = {str(r.dtype): r.value for r in rows if r.quantity == RATE and r.value}
    return Ceilings(bandwidth[-1], rates) if bandwidth and rates else None
