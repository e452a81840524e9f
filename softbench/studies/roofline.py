"""roofline: this device's two ceilings, bytes a second of a large copy and FLOP a second of a large matrix product.

A copy of n bytes reads n and writes n, and 2 n / seconds is its bandwidth. Its buffers are four times as large as the
last cache that the system tells of (a GPU's L2), so that it measures memory. A product of two size x size matrices is
2 size^3 FLOP; the size doubles from 256 until one product lasts `patience` ms. The repeats of all of them are
interleaved. Each ceiling is the best repeat, as a ceiling is what can be reached at all; the median stands beside it.
float32 products on a GPU are TF32 where `--tf32 true` says so, and the number belongs to that setting and to the number
of threads.

The result is kept for the machine (see `softbench.machine.ceilings`), and `softbench latency` shows it as the floor
of each time. `--force` measures anew.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softbench import dtypes, parsing
from softbench.contracts.quantities import Quantity
from softbench.contracts.study import Finding, Task
from softbench.machine import device
from softbench.machine.ceilings import BANDWIDTH, RATE
from softbench.machine.ceilings import recall as recall
from softbench.machine.ceilings import remember as remember
from softbench.options import option
from softbench.records.views import Rows
from softbench.stats import median

if TYPE_CHECKING:
    import torch

QUANTITIES = tuple(Quantity(f"{name}{which}", unit, "derived", "more")
                   for name, unit in ((BANDWIDTH, "B/s"), (RATE, "flop/s")) for which in ("", "_median"))
QUICK = {"repeats": 5, "patience": 5.0}
_SMALLEST, _LARGEST = 256, 1 << 14  # rows of a matrix
_COPY, _CACHES = 256 << 20, 4  # bytes of a copy at least, and caches that it should exceed
_MEMORY_SHARE = 8  # of the free memory, a buffer takes one part in so many at most


@dataclass(frozen=True)
class Settings:
    device: str = option("auto", "cpu, cuda, cuda:1; auto takes a GPU if there is one")
    dtypes: str = option(",".join(dtypes.NAMES), "dtypes of the matrix product, comma-separated")
    repeats: int = option(20, "times that each is measured, in turn", low=1, high=10_000)
    patience: float = option(40.0, "ms that one matrix product lasts at least", unit="ms", low=0.1, high=10_000)
    copy: str = option("", "bytes of the copy, as 1GiB; by default as many as leave the caches")


VIEWS = (
    Rows(name="ceilings", title="What this device can do at most: the best of all repeats, and their median.",
         by=("operation", "dtype", "size"),
         quantities=(BANDWIDTH, f"{BANDWIDTH}_median", RATE, f"{RATE}_median"),
         words={BANDWIDTH: "bandwidth", RATE: "FLOP rate", f"{BANDWIDTH}_median": "median",
                f"{RATE}_median": "median rate"},
         note="2 FLOP a multiply-add. A copy of n bytes moves 2 n."),
)


def tasks(settings: Settings) -> list[Task]:
    kinds = parsing.dtypes(settings.dtypes)
    copied = parsing.memory(settings.copy, "--copy", least=1) if settings.copy else 0
    name = f"copy {settings.copy or 'auto'}, products {','.join(kinds)}"
    return [Task(name, lambda: _measure(settings, kinds, copied))]


@dataclass(frozen=True)
class _Operation:
    """Something to time: what it is, how much it is, and one call of it."""

    name: str
    dtype: str
    size: str
    amount: float
    call: Callable[[], Any]


def _measure(settings: Settings, kinds: list[str], copied: int) -> list[Finding]:
    import torch

    where = torch.device(device.find(settings.device))
    operations = [_copy(copied or _beyond_caches(where), where),
                  *(_product(dtype, where, settings.patience / 1e3) for dtype in kinds)]
    seconds: list[list[float]] = [[] for _ in operations]
    for operation in operations:
        device.seconds(operation.call, where)
    for _ in range(settings.repeats):
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
    import torch

    source = torch.ones(size // 4, device=where)
    target = torch.zeros_like(source)  # written to, so that its pages exist
    moved = 2.0 * source.numel() * source.element_size()
    return _Operation("copy", dtypes.FLOAT32, f"{size >> 20:,} MiB", moved, lambda: target.copy_(source))


def _product(dtype: str, where: torch.device, patience: float) -> _Operation:
    """A product that lasts at least that many seconds, or is of the largest size."""
    import torch

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
