"""What holds for all tests: without a GPU, its tests are skipped with the reason, and Triton kernels interpreted."""

from __future__ import annotations

import atexit
import os
import tempfile

import pytest
import torch

_cache = tempfile.TemporaryDirectory(prefix="softbench-tests-")
atexit.register(_cache.cleanup)
os.environ["XDG_CACHE_HOME"] = _cache.name  # what `softbench roofline` knows of this machine takes no part

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it sees a kernel


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device here"))
