"""Our clock against torch's: `latency` and torch.utils.benchmark on the same callable, in interleaved pairs."""

from __future__ import annotations

import pytest
import torch
from benchmarks import pairs
from torch.utils.benchmark import Timer

from softbench.measures import latency

LARGEST_DIFFERENCE = 0.03


@pytest.mark.parametrize("tokens", [1024, 4096])
@pytest.mark.parametrize("attn", ["softmax", "soft", "performer"])
def test_latency_agrees_with_torch_benchmark(benchmark, build, tell, attn, tokens):
    """The ratio of neighbouring measurements is within 3 % of 1."""
    built = build(attn, tokens)
    timer = Timer("run(None)", globals={"run": built.run}, num_threads=torch.get_num_threads())
    settings = latency.Settings(rep=250.0, warmup=50.0, rounds=1)

    def ours() -> float:
        (reading,) = latency.measure(built, settings)
        assert reading.summary is not None
        return reading.summary

    def theirs() -> float:
        return timer.blocked_autorange(min_run_time=0.25).median

    def ratio(pair: int) -> float:
        if pair % 2:
            second, first = theirs(), ours()
        else:
            first, second = ours(), theirs()
        return first / second

    claim = pairs.within(LARGEST_DIFFERENCE, ratio)
    what = f"{attn}, N = {tokens:,}: softbench / torch.utils.benchmark"
    tell(what, claim.ratio, claim.span)
    benchmark.pedantic(built.run, args=(None,), rounds=3)
    claim.check(what)
