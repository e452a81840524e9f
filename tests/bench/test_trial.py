"""Trials on a GPU, as far as a machine without one can tell: the limit stands and the peak begins before the call."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fake_cuda import GIB, Cuda, install

from softbench.bench import trial
from softbench.case import AttentionSpec, Case, Shape
from softbench.subjects import load

CASE = Case(AttentionSpec("soft"), Shape(1, 1, 4, 4, 8), device="cuda:1")


def built(cuda: Cuda, size: int) -> SimpleNamespace:
    """Stands for a workload on a GPU: inputs of `size` bytes, and a call that takes as many again for a while."""
    def run(state: object) -> None:
        cuda.log.append("run")
        cuda.take(size)
        cuda.take(-size)

    cuda.log.append("build")
    cuda.take(size)
    return SimpleNamespace(device=torch.device(CASE.device), prepare=lambda: cuda.log.append("prepare"), run=run)


def test_what_a_call_on_a_gpu_holds_is_its_peak_under_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = load(CASE.spec)
    cuda = install(monkeypatch)
    cuda.most = 50 * GIB  # of what came before
    monkeypatch.setattr(trial.workload, "build", lambda case, subject: built(cuda, GIB))
    assert trial._held_on_gpu(CASE, subject, 8 * GIB) == trial.Trial("ok", held=2.0 * GIB)
    assert cuda.log == ["empty_cache", "limit 0.1 cuda:1", "build", "reset cuda:1", "prepare", "synchronize cuda:1",
                        "run", "synchronize cuda:1", "peak cuda:1"]


def test_a_child_takes_all_that_a_gpu_has_free_and_most_of_a_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert trial.free("cuda:1") == 70 * GIB
    monkeypatch.setattr(trial.device.control_groups, "read", lambda path: "MemAvailable:    1000 kB")
    monkeypatch.setattr(trial.device.control_groups, "free_memory", lambda: None)
    assert trial.free("cpu") == 921_600
    monkeypatch.setattr(trial.device.control_groups, "read", lambda path: None)
    assert trial.free("cpu") is None
