"""Our clock against torch's: `latency` and torch.utils.benchmark on the same callable, in interleaved pairs."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch.utils.benchmark import Timer

from softbench.measures import latency

PAIRS = 9
LARGEST_DIFFERENCE = 0.03


@pytest.mark.parametrize("tokens", [1024, 4096])
@pytest.mark.parametrize("attn", ["softmax", "soft", "performer"])
def test_latency_agrees_with_torch_benchmark(benchmark, build, attn, tokens):
    """The median of the ratios of neighbouring measurements is within 3 % of 1."""
    built = build(attn, tokens)
    timer = Timer("run(None)", globals={"run": built.run}, num_threads=torch.get_num_threads())
    settings = latency.Settings(rep=250.0, warmup=50.0, rounds=1)

    def ours() -> float:
        (reading,) = latency.measure(built, settings)
        assert reading.summary is not None
        return reading.summary

    def theirs() -> float:
        return timer.blocked_autorange(min_run_time=0.25).median

    ratios = []
    for pair in range(PAIRS):
        if pair % 2:
            second, first = theirs(), ours()
        else:
            first, second = ours(), theirs()
        ratios.append(first / second)
    ratio = statistics.median(ratios)
    benchmark.extra_info |= {"ratio to torch.utils.benchmark": round(ratio, 4), "ratios": [round(r, 4) for r in ratios]}
    benchmark.pedantic(built.run, args=(None,), rounds=3)
    span = f"{min(ratios):.3f}..{max(ratios):.3f}"
    print(f"{attn}, N = {tokens:,}: softbench / torch.utils.benchmark = {ratio:.3f} ({span})")
    assert abs(ratio - 1) <= LARGEST_DIFFERENCE
