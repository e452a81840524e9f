"""Every attention at two lengths, forward and training step: the numbers to watch from one version to the next."""

from __future__ import annotations

import helpers
import pytest


@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
@pytest.mark.parametrize("tokens", [1024, 4096])
@pytest.mark.parametrize("attn", helpers.SEEING_ALL)
def test_attention(benchmark, build, attn, tokens, mode):
    built = build(attn, tokens, mode)
    benchmark.group = f"{mode}, N = {tokens:,}"
    benchmark.pedantic(built.run, args=(None,), rounds=5, warmup_rounds=1)
