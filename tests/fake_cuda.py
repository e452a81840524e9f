"""torch.cuda as far as softbench asks it, on a machine without a GPU: two GPUs, and a log of what they were asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

GIB = 1 << 30


class Cuda:
    """Two GPUs with a clock that only the work given to them moves."""

    version = "13.2"

    def __init__(self, count: int = 2) -> None:
        self.count, self.log, self.now, self.current = count, [], 0.0, "cuda:0"
        self.bytes = self.most = 0

    def work(self, name: str, seconds: float) -> None:
        self.log.append(name)
        self.now += seconds

    def take(self, size: int) -> None:
        self.bytes += size
        self.most = max(self.most, self.bytes)

    def is_available(self) -> bool:
        return self.count > 0

    def device_count(self) -> int:
        return self.count

    def get_device_capability(self) -> tuple[int, int]:
        return 7, 5

    def get_device_properties(self, device: object) -> SimpleNamespace:
        return SimpleNamespace(name="Fake GPU", total_memory=80 * GIB, L2_cache_size=50 << 20)

    @contextmanager
    def device(self, device: object) -> Iterator[None]:
        before, self.current = self.current, str(device)
        yield
        self.current = before

    def set_device(self, device: object) -> None:
        self.current = str(device)

    def Event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)

    def clock_rate(self, device: object) -> int:
        self.log.append(f"clock {device}")
        return 1980

    def synchronize(self, device: object) -> None:
        self.log.append(f"synchronize {device}")

    def mem_get_info(self, device: object) -> tuple[int, int]:
        return 70 * GIB, 80 * GIB

    def empty_cache(self) -> None:
        self.log.append("empty_cache")

    def set_per_process_memory_fraction(self, fraction: float, device: object) -> None:
        self.log.append(f"limit {fraction:g} {device}")

    def reset_peak_memory_stats(self, device: object) -> None:
        self.log.append(f"reset {device}")
        self.most = self.bytes

    def memory_allocated(self, device: object) -> int:
        self.log.append(f"allocated {device}")
        return self.bytes

    def max_memory_allocated(self, device: object) -> int:
        self.log.append(f"peak {device}")
        return self.most

    def get_rng_state(self, device: object) -> torch.Tensor:
        self.log.append(f"draws {device}")
        return torch.zeros(1)


class Event:
    """A point of time on the GPU that is current where it is recorded."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def record(self) -> None:
        self.cuda.log.append(f"record {self.cuda.current}")
        self.at = self.cuda.now

    def synchronize(self) -> None:
        self.cuda.log.append("synchronize event")

    def elapsed_time(self, end: Event) -> float:
        self.cuda.log.append("elapsed")
        return 1e3 * (end.at - self.at)


def install(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> Cuda:
    """Let torch have so many GPUs; tensors cannot be put there, and a buffer is one that logs when it is filled."""
    cuda = Cuda(count)

    def empty(size: int, *, dtype: torch.dtype, device: Any) -> SimpleNamespace:
        cuda.log.append(f"buffer {size} {device}")
        return SimpleNamespace(zero_=lambda: cuda.work("flush", 100.0))

    monkeypatch.setattr(torch, "cuda", cuda)
    monkeypatch.setattr(torch, "empty", empty)
    return cuda
