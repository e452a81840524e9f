"""The device that computes: its name, when its work is done, how long a call took there, and its memory.

softbench knows the CPU, and the GPUs that torch calls cuda (AMD's too). On other accelerators, such as Apple's mps or
Intel's xpu, a call returns before its work is done, and a clock that does not wait would be wrong without a word: here
they are refused. A device is given as torch has it or by its name, "cuda:1".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from softbench.errors import UsageError
from softbench.machine import control_groups
from softbench.machine.kinds import CPU as CPU
from softbench.machine.kinds import GPU as GPU
from softbench.machine.kinds import KINDS as KINDS
from softbench.machine.kinds import is_gpu as is_gpu
from softbench.machine.kinds import kind as kind

Device = torch.device | str
_FLUSHED = 1 << 25  # bytes that a GPU's last cache is taken to hold at least


def find(name: str) -> str:
    """A device that exists, of this name; of "auto", the GPU if there is one.

    Raises:
        UsageError: there is none of that name here.
    """
    if name == "auto":
        return GPU if torch.cuda.is_available() else CPU
    match = re.fullmatch(r"(cpu|cuda)(?::([0-9]{1,9}))?", name)
    if not match:
        raise UsageError(f"No device named '{name}'. Valid: auto, cpu, cuda, cuda:0 and so on.")
    if match[1] == CPU:
        return CPU
    if not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA device here. Use --device cpu, or install a driver and a CUDA build.")
    if match[2] and int(match[2]) >= torch.cuda.device_count():
        raise UsageError(f"No device '{name}': this machine has {torch.cuda.device_count()} CUDA device(s).")
    return f"{GPU}:{int(match[2])}" if match[2] else GPU


def take_own(device: Device, number: int) -> torch.device:
    """The device of one of several processes on a machine: the CPU, or the GPU of its number, which becomes current.

    Raises:
        UsageError: there are not so many GPUs.
    """
    if not is_gpu(device):
        return torch.device(device)
    if number >= torch.cuda.device_count():
        raise UsageError(f"A process here needs GPU {number}, and this machine has {torch.cuda.device_count()}:"
                         " use torchrun --nproc-per-node with the number of GPUs.")
    own = torch.device(GPU, number)
    torch.cuda.set_device(own)
    return own


def incapable(major: int) -> str:
    """Why the current GPU cannot run kernels for that compute capability and later; "" where it can."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    has, minor = torch.cuda.get_device_capability()
    return "" if has >= major else f"it needs compute capability {major}.0 or later, and the GPU has {has}.{minor}"


def describe(device: Device) -> dict[str, Any]:
    """Describe a GPU: its name, its bytes, and the versions of its driver and of CUDA; each None for a CPU."""
    if not is_gpu(device):
        return dict.fromkeys(("gpu", "gpu_memory", "driver", "cuda"))
    properties = torch.cuda.get_device_properties(device)
    return {"gpu": properties.name, "gpu_memory": properties.total_memory, "driver": _driver(),
            "cuda": torch.version.cuda}


def waiter(device: Device) -> Callable[[], None]:
    """A function that waits until the device has done what it was given, to be called in a time that is taken."""
    if not is_gpu(device):
        return _done
    return partial(torch.cuda.synchronize, device)


def synchronize(device: Device) -> None:
    """Wait until the device has done what it was given."""
    waiter(device)()


def current(device: Device) -> AbstractContextManager[object]:
    """A block in which a GPU is the current one: events are recorded on the current device's stream."""
    if not is_gpu(device):
        return nullcontext()
    return torch.cuda.device(device)


def events() -> tuple[torch.cuda.Event, torch.cuda.Event]:
    """The beginning and the end of a time on the current GPU, to be recorded."""
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def between(start: torch.cuda.Event, end: torch.cuda.Event) -> float:
    """Seconds between two events that the device has passed."""
    return start.elapsed_time(end) / 1e3


def seconds(call: Callable[[], Any], device: Device) -> float:
    """The time of one call: between events on a GPU, by the clock elsewhere."""
    if not is_gpu(device):
        started = perf_counter()
        call()
        return perf_counter() - started
    with current(device):
        start, end = events()
        start.record()
        call()
        end.record()
        end.synchronize()
    return between(start, end)


def flusher(device: Device) -> torch.Tensor:
    """A buffer of a GPU that leaves nothing else in its last cache when it is overwritten."""
    return torch.empty(max(last_cache(device), _FLUSHED) * 2, dtype=torch.uint8, device=device)


def clock(device: Device) -> int | None:
    """The clock of a GPU in MHz now; None where the driver's Python bindings are not installed."""
    try:
        return torch.cuda.clock_rate(device)
    except Exception:  # NVML has an error class for each thing that a container may not read
        return None


def last_cache(device: Device) -> int:
    """Bytes of the largest cache: a GPU's L2, or of the CPU as Linux tells; 0 where it does not."""
    if is_gpu(device):
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = control_groups.read(file) or ""
        if (digits := text.rstrip("KMG")).isdecimal():
            sizes.append(int(digits) << {"K": 10, "M": 20, "G": 30}.get(text[-1:], 0))
    return max(sizes)


def free(device: Device) -> int | None:
    """Bytes that can still be had there: on a CPU without swapping and within the process's control groups; None where
    nothing says."""
    if is_gpu(device):
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    match = re.search(r"MemAvailable:\s+(\d+) kB", control_groups.read(Path("/proc/meminfo")) or "")
    bounds = [int(match[1]) * 1024 if match else None, control_groups.free_memory()]
    return min((bound for bound in bounds if bound is not None), default=None)


def reset_peak(device: Device) -> None:
    """Let a GPU's peak begin anew, at what is allocated there now."""
    torch.cuda.reset_peak_memory_stats(device)


def allocated(device: Device) -> int:
    """Bytes that torch has allocated on a GPU now."""
    return int(torch.cuda.memory_allocated(device))


def peak(device: Device) -> int:
    """The most bytes that torch had allocated on a GPU at once, since `reset_peak` or ever."""
    return int(torch.cuda.max_memory_allocated(device))


def limit_memory(device: Device, size: int) -> None:
    """Let torch take at most that many bytes of a GPU."""
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, size / total), device)


def release() -> None:
    """Give back what torch keeps of the GPUs' memory without using it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def draws(device: Device) -> list[torch.Tensor]:
    """The states of the generators of random numbers that calls there draw from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if is_gpu(device) else [])]


def forked_draws(device: Device) -> AbstractContextManager[None]:
    """A block after which these generators are as they were before it."""
    return torch.random.fork_rng(devices=[device] if is_gpu(device) else [])


def _done() -> None:
    """A CPU has done its work when the call returns."""


def _driver() -> str | None:
    match = re.search(r"(\d+\.[\d.]*\d)", control_groups.read(Path("/proc/driver/nvidia/version")) or "")
    return match[1] if match else None
