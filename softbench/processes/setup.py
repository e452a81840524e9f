"""A measuring process sets this once, before it allocates or computes: threads, malloc, subnormals, TF32.

Three of these decide CPU timings as much as the attention does. glibc by default maps each large temporary anew and
pays its page faults in every call (1.3 to 3 times slower above 4,096 tokens, and bimodal between processes); subnormal
numbers slow matrix products tenfold on well-separated Gaussian kernels; and the number of threads is never guessed.
`apply` sets them and returns the state it then finds, which every record carries.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from typing import Any, Literal, TextIO

import torch

from softbench.config import Process
from softbench.machine.cores import usable_cores
from softbench.processes import threads

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 << 20
_malloc: Literal["fixed", "default"] = "default"  # what `apply` was asked for: glibc does not tell


def apply(process: Process) -> dict[str, Any]:
    """Set this process up, and return what was found afterwards: threads, malloc, denormals, tf32.

    Call it before the first parallel operation: worker threads inherit the subnormal flag when they are created.
    """
    global _malloc
    _malloc = process.malloc
    malloc = _fix_malloc() if process.malloc == "fixed" else _default_malloc()
    torch.set_flush_denormal(process.denormals == "flush")
    torch.set_num_threads(process.threads or usable_cores())
    torch.set_float32_matmul_precision("high" if process.tf32 else "highest")
    with warnings.catch_warnings():  # some versions of torch ask for another spelling, which others cannot read back
        warnings.filterwarnings("ignore", message=".*TF32")
        torch.backends.cudnn.allow_tf32 = process.tf32
    return {"threads": threads.working(), "malloc": malloc, "denormals": _denormals(), "tf32": process.tf32}


def current() -> Process:
    """How this process is set up now, for a child that should be set up alike."""
    return Process(threads=torch.get_num_threads(), malloc=_malloc,
                   denormals="keep" if _denormals() == "keep" else "flush",
                   tf32=torch.get_float32_matmul_precision() != "highest")


def private_stdout() -> TextIO:
    """Where this process's answers go from now on; what others print, such as a plugin, goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def _fix_malloc() -> str:
    """Serve every request from the heap and never give it back. "fixed", or why not: "unavailable" without glibc,
    "preloaded" where another allocator answers instead of it."""
    if _preloaded():
        return "preloaded"
    if not sys.platform.startswith("linux"):
        return "unavailable"
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return "unavailable"
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    accepted = [mallopt(name, value) for name, value in settings]
    return "fixed" if all(accepted) else "unavailable"


def _default_malloc() -> str:
    """ "default", or "preloaded", or "environment" where MALLOC_ variables or glibc tunables already change it."""
    if _preloaded():
        return "preloaded"
    changed = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    return "environment" if changed or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") else "default"


def _preloaded() -> bool:
    """True where jemalloc, tcmalloc or mimalloc replace glibc's allocator."""
    return "malloc" in os.environ.get("LD_PRELOAD", "")


def _denormals() -> str:
    """Say what a parallel operation does with subnormal results: "flush", "keep", or "partial" (some threads flush)."""
    halved = torch.full((1 << 20,), torch.finfo(torch.float32).tiny) * 0.5
    kept = int((halved.view(torch.int32) != 0).sum())
    return "flush" if kept == 0 else "keep" if kept == halved.numel() else "partial"
