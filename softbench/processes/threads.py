"""Threads: how many really work on a parallel operation, and one alone where several gain nothing.

`torch.get_num_threads` repeats what it was told. OpenMP starts fewer under OMP_THREAD_LIMIT, or by its own judgement of
the machine's load under OMP_DYNAMIC. So a parallel region like torch's own is run, and its threads are counted.
"""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_LIBRARY = re.compile(r"/lib(gomp|omp|iomp5)[^/]*\.so")


@contextmanager
def one_thread(needed: bool = True) -> Iterator[None]:
    """Let torch use a single thread within the block, if it is needed. Nothing may be timed in it.

    While another process holds a core, threads that wait for each other made both studies ten times slower.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if needed else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def working() -> int:
    """Threads that share torch's parallel operations from now on; what torch says where OpenMP cannot be asked."""
    openmp = _openmp()
    if openmp is None:
        return torch.get_num_threads()
    openmp.omp_set_dynamic(0)
    idents: set[int] = set()
    region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: idents.add(threading.get_native_id()))
    openmp.GOMP_parallel(region, None, 0, 0)  # all three libraries have it, under this name of GCC's
    return len(idents)


def _openmp() -> ctypes.CDLL | None:
    """The OpenMP library that torch has loaded: its own copy where it brought one."""
    try:
        paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if _LIBRARY.search(line)}
        own = sorted(paths, key=lambda path: ("/torch/" not in path, path))
        library = ctypes.CDLL(own[0])
        return library if hasattr(library, "GOMP_parallel") and hasattr(library, "omp_set_dynamic") else None
    except (OSError, IndexError):
        return None
