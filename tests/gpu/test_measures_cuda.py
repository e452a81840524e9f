"""Measures on a GPU: event times against known work, and the allocator's peak against operations known by hand."""

from __future__ import annotations

import pytest
import torch

from softbench import config
from softbench.bench import session

pytestmark = pytest.mark.gpu


def records_of(measure: str, attn: str, **sweep):
    flags = {"sweep": {"attn": attn, "baseline": "none", "device": "cuda", **sweep}}
    return [r for _, group in session.start(config.load(None, flags=flags), measure) for r in group]


def test_latency_is_device_time():
    """Four times the tokens is sixteen times the work of exact attention: far more than launch overhead could hide."""
    small, large = records_of("latency", "softmax", tokens="4k,16k", dtype="bfloat16", batch="4")
    assert small.status == large.status == "ok"
    assert 8 < large.value / small.value < 24
    flops = 4 * 4 * 8 * 16384**2 * 64
    assert 1e12 < flops / large.value < 2e15  # a real rate of a real chip: the queue was waited for
    assert large.environment["gpu"] == torch.cuda.get_device_name()
    assert large.device == "cuda"


def test_memory_is_the_allocators_peak():
    (row,) = records_of("memory", "softmax:impl=math", tokens="1k", batch="1", heads="1", head_dim="64")
    scores = 1024 * 1024 * 4
    assert scores <= row.value <= 4 * scores


def test_out_of_memory_is_a_row():
    rows = records_of("latency", "softmax:impl=math,soft", tokens="256k", batch="4", dtype="float32")
    assert [(r.attention, r.status) for r in rows] == [("softmax", "oom"), ("soft", "ok")]


def test_explicit_index_is_the_same_device():
    (row,) = records_of("latency", "soft", tokens="256", device="cuda:0")
    assert row.device == "cuda"
