"""Threads: one for work on small matrices, where several gain nothing and wait for each other on a busy machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Let torch use a single thread within the block, if that is wanted. Nothing may be timed in it.

    While another process holds a core, threads that wait for each other made both studies ten times slower.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1 if wanted else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
