"""Which implementation runs, with a CUDA device that is only pretended."""

from __future__ import annotations

import pytest
import torch
from helpers import load
from torch import nn

import softbench
from softbench.case import AttentionSpec, Case, Shape
from softbench.errors import Unsupported
from softbench.models.blocks import ProjectedAttention
from softbench.ops import dispatch
from softbench.subjects import OneAttention

NAMES = ["soft", "soft_norm", "gaussian"]


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with triton and an H100."""
    monkeypatch.setattr(dispatch, "_INSTALLED", True)
    monkeypatch.setattr(dispatch, "_gpu_lacks", lambda: "")
    monkeypatch.setattr(torch.version, "hip", None)


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("name", NAMES)
def test_auto_falls_back_where_the_kernels_cannot_have_the_shape(name: str) -> None:
    attention = load(name)
    for head_dim, impl in ((16, "triton"), (128, "triton"), (129, "eager"), (160, "eager")):
        shape = Shape(2, 3, 8, 8, head_dim)
        assert attention.resolve("auto", "cuda", torch.bfloat16, shape) == impl
        assert OneAttention(attention).resolve("auto", "cuda", torch.bfloat16, shape) == impl
    assert attention.resolve("auto", "cuda", torch.bfloat16) == "triton"
    assert attention.resolve("auto", "cuda", torch.float64, Shape(2, 3, 8, 8, 16)) == "eager"
    with pytest.raises(Unsupported, match=f"{name} cannot run here .triton: tokens and values .* at most, not 129"):
        attention.resolve("triton", "cuda", torch.bfloat16, Shape(2, 3, 8, 8, 129))


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("landmarks", [128, 200])
def test_more_landmarks_than_the_inverse_takes_leave_the_passes_to_triton(landmarks: int) -> None:
    """Its own "auto" is asked for each call: beyond 128 landmarks the inverse alone is plain torch."""
    from softbench.ops import pseudo_inverse

    assert load("soft", landmarks=landmarks).resolve("auto", "cuda", torch.float16, Shape(1, 1, 32, 32, 64)) == "triton"
    a = torch.empty(1, landmarks, landmarks, device="meta")
    lacks = pseudo_inverse._triton_lacks(a, "cholesky")
    assert dispatch.resolve("pseudo_inverse", "auto", torch.device("cuda"), lambda: lacks) == (
        "triton" if landmarks <= 128 else "eager")


@pytest.mark.usefixtures("_gpu")
def test_a_workload_and_a_block_ask_with_their_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    from softbench.bench import sweep
    from softbench.subjects import workload

    spec = AttentionSpec("soft")
    subject = OneAttention(load("soft"), spec)
    case = Case(spec, Shape(1, 1, 4, 4, 160), device="cuda")
    assert workload.build(case, subject, on="meta").case.impl == "eager"
    assert sweep.resolved_impl(sweep.Job(case, subject)) == "eager"
    asked = []
    attention = load("soft")
    monkeypatch.setattr(attention.module, "supports", lambda *point: asked.append(point) or "")
    ProjectedAttention(320, 2, attention, (4, 4))
    assert asked == [("triton", "cpu", torch.float32, Shape(1, 2, 4, 4, 160))]


def test_values_wider_than_tokens_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    attention = softbench.create("soft")
    monkeypatch.setattr(attention.attention.module, "supports", lambda *point: asked.append(point[3]) or (
        "not that" if point[0] == "triton" else ""))
    q, v = torch.zeros(1, 1, 4, 8), torch.zeros(1, 1, 4, 200)
    attention(q, q, v)
    assert [shape.head_dim for shape in asked] == [200, 200]
    assert isinstance(attention.core, nn.Module)
