"""The state of this process that no case may change: noted before foreign code runs, compared and put back after it.

An attention that sets torch's threads, in its file or in a call, would decide the times of all cases after it while
their records say otherwise. `kept` runs around the import of an attention, and around building and measuring it; the
case that changed something fails with its name, and the others find everything as it was.

A change that only the worker threads of a parallel operation carry, or that lies in another library's settings, is not
seen.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch.utils import _python_dispatch as dispatch

from softbench.errors import SoftbenchError
from softbench.machine.kinds import CPU, KINDS

# Of the environment: what decides how this process or its children compute. Others, libraries set for themselves.
_DECISIVE = (
    "OMP_", "GOMP_", "KMP_AFFINITY", "KMP_BLOCKTIME", "MKL_", "ATEN_", "ONEDNN_", "DNNL_", "MALLOC_", "GLIBC_TUNABLES",
    "LD_", "CUDA_", "NVIDIA_", "CUBLAS_", "PYTORCH_", "PYTHONPATH", "XDG_CACHE_HOME", "TRITON_INTERPRET")

_Part = tuple[Callable[[], Any], Callable[[Any], Any]]
_held: list[Any] = []  # guards of torch's inference mode, which end when they are collected


class Disturbed(SoftbenchError):
    """A case changed the state of the process that measures it."""


@contextmanager
def kept() -> Iterator[list[str]]:
    """Put back whatever of the state the block changes; the list that it yields then says what that was."""
    parts = _parts()
    before = {name: read() for name, (read, _) in parts.items()}
    changes: list[str] = []
    try:
        yield changes
    finally:
        for name, (read, write) in parts.items():
            if (now := read()) != before[name]:
                changes.append(_told(name, before[name], now))
                with suppress(Exception):  # it may be out of reach, as signals are in a thread
                    write(before[name])


@contextmanager
def guarded() -> Iterator[None]:
    """`kept`, for one case. Raises Disturbed where the block changed something, whatever else went wrong after that."""
    failure = None
    with kept() as changes:
        try:
            yield
        except Exception as error:
            failure = error
    if changes and not isinstance(failure, TimeoutError | MemoryError):
        raise Disturbed(sentence(changes)) from failure
    if failure is not None:
        raise failure


def sentence(changes: list[str]) -> str:
    """Say for its row what a case did."""
    return f"it changed {'; '.join(changes)}"


def _told(name: str, before: Any, now: Any) -> str:
    if isinstance(before, Mapping):
        keys = [str(key) for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        return f"{name} {', '.join(keys)}"
    plain = all(isinstance(value, bool | int | str) for value in (before, now))
    return f"{name} from {before} to {now}" if plain else name


def _parts() -> dict[str, _Part]:
    """How each part of the state is read, and how it is set to what was read; in the order of setting."""
    cuda, control = torch.backends.cuda, torch._C
    parts: dict[str, _Part] = {
        "torch's threads": (torch.get_num_threads, torch.set_num_threads),
        "the cores it may use": (_cores, _set_cores),
        "the flushing of subnormal numbers": (lambda: sys.float_info.min / 2 == 0.0, torch.set_flush_denormal),
        "torch's dispatch modes": (lambda: len(dispatch._get_current_dispatch_mode_stack()), _pop_modes),
        "torch's inference mode": (torch.is_inference_mode_enabled, _set_inference_mode),
        "torch's grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
        "torch's anomaly mode": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
        "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
        "torch's default device": (lambda: str(torch.get_default_device()), _set_default_device),
        "torch's deterministic algorithms": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
        "the precision of float32 products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        "cuDNN's TF32": (control._get_cudnn_allow_tf32, control._set_cudnn_allow_tf32),
        "cuDNN's benchmark mode": (control._get_cudnn_benchmark, control._set_cudnn_benchmark),
        "torch's use of oneDNN": (control._get_mkldnn_enabled, control._set_mkldnn_enabled),
        "the flash kernel of SDPA": (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
        "the memory-efficient kernel of SDPA": (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
        "the math kernel of SDPA": (cuda.math_sdp_enabled, cuda.enable_math_sdp),
        "the working directory": (_directory, os.chdir),
        "the handlers of signals": (_handlers, _set_handlers),
        "the environment variables": (_environment, _set_environment),
        "Python's garbage collector": (gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()),
        "Python's trace function": (sys.gettrace, sys.settrace),
        "Python's profile function": (sys.getprofile, sys.setprofile),
        "time.perf_counter": (lambda: time.perf_counter, lambda clock: setattr(time, "perf_counter", clock)),
    }
    for kind in KINDS:
        parts[f"autocast on {kind}"] = (partial(torch.is_autocast_enabled, kind),
                                        partial(torch.set_autocast_enabled, kind))
    return parts


def _cores() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def _set_cores(cores: frozenset[int]) -> None:
    os.sched_setaffinity(0, cores)


def _pop_modes(count: int) -> None:
    while len(dispatch._get_current_dispatch_mode_stack()) > count:
        dispatch._pop_mode()


def _set_inference_mode(enabled: bool) -> None:
    _held.append(torch._C._InferenceMode(enabled))


def _set_default_device(device: str) -> None:
    torch.set_default_device(None if device == CPU else device)


def _directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was removed
        return ""


def _handlers() -> dict[str, Any]:
    return {signal.Signals(number).name: signal.getsignal(number) for number in signal.Signals}


def _set_handlers(handlers: dict[str, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for name, handler in handlers.items():
        number = signal.Signals[name]
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_DECISIVE)}


def _set_environment(variables: dict[str, str]) -> None:
    for name in [name for name in _environment() if name not in variables]:
        del os.environ[name]
    os.environ.update(variables)
