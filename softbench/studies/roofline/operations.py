"""Times copies and matrix products, interleaved, and makes ceilings of the best."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from softbench import dtypes
from softbench.contracts.study import Finding
from softbench.machine import device
from softbench.machine.ceilings import BANDWIDTH, RATE
from softbench.stats import median

_SMALLEST, _LARGEST = 256, 1 << 14  # rows of a matrix
_COPY, _CACHES = 256 << 20, 4  # bytes of a copy at least, and caches that it should exceed
_MEMORY_SHARE = 8  # of the free memory, a buffer takes one part in so many at most


@dataclass(frozen=True)
class _Operation:
    """Something to time: what it is, how much it is, and one call of it."""

    name: str
    dtype: str
    size: str
    amount: float
    call: Callable[[], Any]


def measure(name: str, kinds: list[str], copied: int, repeats: int, patience: float) -> list[Finding]:
    """Both ceilings, of a copy of so many bytes (0: as many as leave the caches) and of products in these dtypes."""
    where = torch.device(device.find(name))
    operations = [_copy(copied or _beyond_caches(where), where),
                  *(_product(dtype, where, patience) for dtype in kinds)]
    seconds: list[list[float]] = [[] for _ in operations]
    for operation in operations:
        device.seconds(operation.call, where)
    for _ in range(repeats):
        for operation, samples in zip(operations, seconds, strict=True):
            samples.append(device.seconds(operation.call, where))
    return [finding for operation, samples in zip(operations, seconds, strict=True)
            for finding in _findings(operation, samples)]


def _findings(operation: _Operation, seconds: list[float]) -> list[Finding]:
    quantity, unit = (BANDWIDTH, "B/s") if operation.name == "copy" else (RATE, "flop/s")
    rates = [operation.amount / s for s in seconds]
    make = functools.partial(Finding, unit=unit, samples=rates, dtype=operation.dtype,
                             coords={"operation": operation.name, "size": operation.size})
    return [make(quantity=quantity, value=max(rates)), make(quantity=f"{quantity}_median", value=median(rates))]


def _copy(size: int, where: torch.device) -> _Operation:
    source = torch.ones(size // 4, device=where)
    target = torch.zeros_like(source)  # written to, so that its pages exist
    moved = 2.0 * source.numel() * source.element_size()
    return _Operation("copy", dtypes.FLOAT32, f"{size >> 20:,} MiB", moved, lambda: target.copy_(source))


def _product(dtype: str, where: torch.device, patience: float) -> _Operation:
    """A product that lasts at least that many seconds, or is of the largest size."""
    rows = _SMALLEST
    while True:
        left, right = (torch.randn(rows, rows, device=where).to(dtypes.of(dtype)) for _ in range(2))
        call = functools.partial(torch.mm, left, right, out=torch.empty_like(left))
        device.seconds(call, where)
        if rows >= _LARGEST or min(device.seconds(call, where) for _ in range(3)) >= patience:
            return _Operation("matrix product", dtype, f"{rows:,} x {rows:,}", 2.0 * rows**3, call)
        rows *= 2


def _beyond_caches(where: torch.device) -> int:
    """Bytes of a buffer that the last cache cannot hold, as far as memory allows."""
    free = device.free(where)
    share = _COPY if free is None else max(_SMALLEST, free // _MEMORY_SHARE)
    return min(max(_COPY, _CACHES * device.last_cache(where)), share)
