"""The process: what `apply` reports is what really happens, seen from fresh child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from softbench.config import Process
from softbench.machine.cores import available_cores
from softbench.processes import setup

ROOT = Path(__file__).parents[2]
_PRELUDE = "import json\nfrom softbench.config import Process\nfrom softbench.processes.setup import apply\n"

# What really happens, without asking `apply`: page faults of a call that makes a 48 MiB temporary (beyond glibc's
# largest dynamic threshold) once the heap has settled, subnormal results, threads and switches.
_OBSERVE = """
import resource, torch
tiny = torch.full((1 << 20,), 1e-38)
state["kept"] = int((tiny * 0.1 != 0).sum())
state["torch"] = [torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
torch.set_num_threads(1)
def call(): return float(torch.ones(12 << 20).sum())
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8): call()
before = faults()
for _ in range(3): call()
state["faults"] = (faults() - before) / 3
print(json.dumps(state))
"""


def child(code: str, **environment: str) -> dict[str, Any]:
    """The JSON that code prints in a fresh process whose environment changes neither malloc nor threads."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "OMP_", "LD_PRELOAD"))}
    done = subprocess.run([sys.executable, "-c", _PRELUDE + code], capture_output=True, text=True, check=True,
                          env=clean | {"PYTHONPATH": str(ROOT)} | environment)
    assert done.stderr == ""
    state: dict[str, Any] = json.loads(done.stdout)
    return state


@pytest.fixture(scope="module")
def tuned() -> dict[str, Any]:
    return child("state = apply(Process(3, 'fixed', 'flush', tf32=True))" + _OBSERVE, OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def untouched() -> dict[str, Any]:
    return child("state = apply(Process(2, 'default', 'keep'))" + _OBSERVE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_fixed_malloc_spares_the_page_faults_of_large_temporaries(tuned: dict[str, Any],
                                                                  untouched: dict[str, Any]) -> None:
    assert (tuned["malloc"], untouched["malloc"]) == ("fixed", "default")
    assert untouched["faults"] > 20  # 24 huge or 12,288 small pages
    assert tuned["faults"] < untouched["faults"] / 10


def test_subnormals_are_flushed_or_kept_on_all_threads(tuned: dict[str, Any], untouched: dict[str, Any]) -> None:
    assert (tuned["denormals"], tuned["kept"]) == ("flush", 0)
    assert (untouched["denormals"], untouched["kept"]) == ("keep", 1 << 20)


def test_threads_and_tf32_are_those_asked_for(tuned: dict[str, Any], untouched: dict[str, Any]) -> None:
    assert (tuned["threads"], tuned["tf32"], tuned["torch"]) == (3, True, [3, True, True])
    assert (untouched["threads"], untouched["tf32"], untouched["torch"]) == (2, False, [2, False, False])


def test_workers_that_were_there_before_are_told() -> None:
    state = child("import torch\ntorch.set_num_threads(2)\ntorch.ones(1 << 20) * 2\n"
                  "print(json.dumps(apply(Process(denormals='flush', threads=2))))")
    assert state["denormals"] == "partial"


def test_threads_default_to_the_cores_of_the_affinity_mask() -> None:
    code = ("import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
            "print(json.dumps(apply(Process())))")
    assert child(code)["threads"] == 1
    assert available_cores() == len(os.sched_getaffinity(0))


def test_threads_are_those_that_work_not_those_that_were_asked_for() -> None:
    """The worker threads that exist after a parallel operation, besides the main one, are counted by Linux."""
    code = ("import os\nstate = apply(Process(threads=3))\n"
            "print(json.dumps([state['threads'], len(os.listdir('/proc/self/task'))]))")
    def counted(**environment: str) -> list[int]:
        return list(child(code, OPENBLAS_NUM_THREADS="1", **environment))  # numpy's own threads

    alone, beside = counted(OMP_THREAD_LIMIT="1")
    assert alone == 1
    assert counted(OMP_THREAD_LIMIT="2") == [2, beside + 1]
    assert counted(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1") == [3, beside + 2]
    assert counted(OMP_DYNAMIC="true") == [3, beside + 2]  # whatever the load is


def test_malloc_that_the_user_changed_is_not_called_default() -> None:
    code = "from softbench.processes import setup\nprint(json.dumps({'malloc': setup._default_malloc()}))"
    assert child(code)["malloc"] == "default"
    assert child(code, MALLOC_MMAP_THRESHOLD_="65536")["malloc"] == "environment"
    assert child(code, GLIBC_TUNABLES="glibc.malloc.mmap_max=0")["malloc"] == "environment"
    assert child(code, GLIBC_TUNABLES="glibc.elision.enable=0")["malloc"] == "default"


def test_preloaded_allocator_is_called_neither_fixed_nor_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert setup._fix_malloc() == setup._default_malloc() == "preloaded"


def test_a_child_can_be_set_up_as_this_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(setup, "_fix_malloc", lambda: "fixed")
    monkeypatch.setattr(setup, "_malloc", "default")
    threads = torch.get_num_threads()
    try:
        for asked in (Process(threads=1, malloc="fixed"), Process(threads=1, malloc="default")):
            setup.apply(asked)
            assert setup.current() == asked
    finally:
        torch.set_num_threads(threads)
