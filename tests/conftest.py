"""What holds for all tests: they are seeded; without a GPU its tests are skipped, and Triton kernels interpreted."""

from __future__ import annotations

import atexit
import os
import random
import signal
import tempfile

import numpy as np
import pytest
import torch

_cache = tempfile.TemporaryDirectory(prefix="softbench-tests-")
atexit.register(_cache.cleanup)
os.environ["XDG_CACHE_HOME"] = _cache.name  # what `softbench roofline` knows of this machine takes no part

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # triton reads it when it sees a kernel

for _number in (signal.SIGINT, signal.SIGHUP):  # to which a job in the background, or under nohup, would be deaf
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

THREADS = torch.get_num_threads()
SEED = int(os.environ.get("TEST_SEED", "0"))  # TEST_SEED=7 make test: no test may pass by the luck of one seed


def pytest_report_header() -> str:
    return f"test seed {SEED}, torch {torch.__version__}, CPU capability {torch.backends.cpu.get_cpu_capability()}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed before the first fixture, so that a test draws the same numbers alone, in the suite, and in any process.

    A command that a test ran in this process left it the number of threads that it had set.
    """
    torch.set_num_threads(THREADS)
    torch.manual_seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002
    random.seed(SEED)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device here"))
