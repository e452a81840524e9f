"""The seam for devices: what a CPU, a fake GPU and a device that softbench does not know are asked, in what order."""

from __future__ import annotations

import pytest
import torch
from fake_cuda import GIB, install

from softbench.bench import sweep
from softbench.bench.sweep import Job, Sweep
from softbench.case import AttentionSpec, Case, Shape
from softbench.errors import Unsupported, UsageError
from softbench.machine import device
from softbench.machine.kinds import was_gpu
from softbench.measures import latency
from softbench.subjects import load

OTHERS = ("mps", "mps:0", "xpu:1", "hpu")


@pytest.mark.parametrize(("count", "name", "found"), [
    (0, "auto", "cpu"), (2, "auto", "cuda"), (0, "cpu", "cpu"), (0, "cpu:0", "cpu"), (2, "cuda", "cuda"),
    (2, "cuda:1", "cuda:1"), (2, "cuda:01", "cuda:1"),
])
def test_a_name_is_a_device_that_exists(monkeypatch: pytest.MonkeyPatch, count: int, name: str, found: str) -> None:
    install(monkeypatch, count)
    assert device.find(name) == found
    assert torch.device(found).type == found.partition(":")[0]


@pytest.mark.parametrize(("count", "name", "words"), [
    *((2, name, f"No device named '{name}'. Valid: auto, cpu, cuda, cuda:0 and so on.")
      for name in (*OTHERS, "", "gpu", "cuda:", "cuda:²", "cuda:-1", "cuda:1:1", " cuda", "CUDA", "meta")),
    (0, "cuda:0", "torch finds no CUDA device here. Use --device cpu, or install a driver and a CUDA build."),
    (2, "cuda:2", "No device 'cuda:2': this machine has 2 CUDA device(s)."),
])
def test_any_other_name_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, count: int, name: str, words: str) -> None:
    install(monkeypatch, count)
    with pytest.raises(UsageError) as error:
        device.find(name)
    assert str(error.value) == words


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("asked", [
    device.kind, device.is_gpu, device.waiter, device.synchronize, device.current, device.describe, device.last_cache,
    device.free, device.draws, device.forked_draws, lambda where: device.seconds(lambda: None, where),
    lambda where: device.take_own(where, 0),
])
def test_a_device_that_cannot_be_waited_for_is_refused(name: str, asked) -> None:
    for where in (name, torch.device(name)):
        with pytest.raises(Unsupported, match=f"softbench measures on cpu and cuda, not on {name[:3]}, .*: use cpu$"):
            asked(where)


def test_a_case_there_is_a_row_that_says_so() -> None:
    spec = AttentionSpec("soft")
    job = Job(Case(spec, Shape(1, 1, 4, 4, 8), device="mps"), load(spec))
    rows = [row for _, group in Sweep("latency", latency, latency.Settings(), [job]) for row in group]
    assert [(row.status, row.value, row.device) for row in rows] == [("unsupported", None, "mps")]
    assert "measures on cpu and cuda, not on mps" in rows[0].note
    assert sweep.resolved_impl(job) == "auto"


def test_a_cpu_asks_torch_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch)
    for where in ("cpu", torch.device("cpu"), "meta"):
        device.synchronize(where)
        assert 0 <= device.seconds(lambda: None, where) < 1
        assert set(device.describe(where).values()) == {None}
        with device.current(where), device.forked_draws(where):
            assert len(device.draws(where)) == 1
    assert cuda.log == []


@pytest.mark.parametrize("where", ["cuda:1", torch.device("cuda:1")])
def test_a_call_on_a_gpu_is_timed_by_events_of_its_own_stream(monkeypatch: pytest.MonkeyPatch, where) -> None:
    cuda = install(monkeypatch)
    assert device.seconds(lambda: cuda.work("call", 0.25), where) == 0.25
    assert cuda.log == ["record cuda:1", "call", "record cuda:1", "synchronize event", "elapsed"]
    assert cuda.current == "cuda:0"


def test_a_gpu_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch)
    monkeypatch.setattr(device.control_groups, "read", lambda path: "NVRM version: x86_64  570.86.15  Release")
    assert device.describe("cuda:1") == {"gpu": "Fake GPU", "gpu_memory": 80 * GIB, "driver": "570.86.15",
                                         "cuda": torch.version.cuda}
    assert (device.free("cuda:1"), device.last_cache("cuda"), device.clock("cuda")) == (70 * GIB, 50 << 20, 1980)
    assert device.incapable(8) == "it needs compute capability 8.0 or later, and the GPU has 7.5"
    assert device.incapable(7) == ""
    device.limit_memory("cuda:1", 8 * GIB)
    device.limit_memory("cuda:1", 800 * GIB)
    assert len(device.draws("cuda:1")) == 2
    assert cuda.log == ["clock cuda", "limit 0.1 cuda:1", "limit 1 cuda:1", "draws cuda:1"]


def test_without_a_gpu_nothing_is_released_and_kernels_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch, 0)
    device.release()
    assert cuda.log == []
    assert device.incapable(8) == "torch finds no CUDA device"
    install(monkeypatch, 1)
    device.release()
    assert torch.cuda.log == ["empty_cache"]


def test_a_clock_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch)
    cuda.clock_rate = lambda where: 1 // 0  # type: ignore[method-assign]
    assert device.clock("cuda") is None


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = install(monkeypatch)
    assert device.take_own("cuda", 1) == torch.device("cuda:1")
    assert cuda.current == "cuda:1"
    assert device.take_own("cpu", 7) == torch.device("cpu")
    with pytest.raises(UsageError, match="needs GPU 2, and this machine has 2: use torchrun --nproc-per-node"):
        device.take_own("cuda", 2)


@pytest.mark.parametrize(("name", "gpu"), [("cuda", True), ("cuda:1", True), ("cpu", False), ("", False), (None, False),
                                           ("mps", False)])
def test_the_device_of_a_record_may_be_any(name: str | None, gpu: bool) -> None:
    assert was_gpu(name) is gpu


def test_a_cpus_last_cache_is_that_of_the_kernel_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.control_groups, "read", lambda path: "33792K")
    assert device.last_cache("cpu") in (33792 << 10, 0)
    for text in (None, "", "unknown"):
        monkeypatch.setattr(device.control_groups, "read", lambda path, text=text: text)
        assert device.last_cache("cpu") == 0
