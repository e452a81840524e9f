"""The primitives that SOFT is made of, at the sizes it uses: what to look at when an attention has become slower."""

from __future__ import annotations

import pytest
import torch

from softbench.ops.gaussian_attention import gaussian_attention
from softbench.ops.pseudo_inverse import pseudo_inverse

LANDMARKS, HEADS, HEAD_DIM = 49, 8, 64


def normal(*size: int) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("tokens", [1024, 4096])
@pytest.mark.parametrize("side", ["gather", "spread"])
def test_gaussian_attention(benchmark, side, tokens):
    """Tokens gathered by landmarks, and landmarks spread to tokens: x [B, H, N, D], k [B, H, M, D], v [B, H, M, E]."""
    many, few = normal(1, HEADS, tokens, HEAD_DIM), normal(1, HEADS, LANDMARKS, HEAD_DIM)
    x, k = (few, many) if side == "gather" else (many, few)
    benchmark.group = f"gaussian_attention, N = {tokens:,}"
    with torch.no_grad():
        y = benchmark.pedantic(gaussian_attention, args=(x, k, k), kwargs={"scale": 0.125}, rounds=7, iterations=3,
                               warmup_rounds=1)
    assert y.shape == x.shape


@pytest.mark.parametrize("method", ["cholesky", "newton"])
def test_pseudo_inverse(benchmark, method):
    """The m x m inverse of a kernel of landmarks, one for each head."""
    points = normal(1, HEADS, LANDMARKS, HEAD_DIM)
    with torch.no_grad():
        kernel = torch.exp(-torch.cdist(points, points).square() / (2 * HEAD_DIM))
        inverse = benchmark.pedantic(pseudo_inverse, args=(kernel,), kwargs={"method": method}, rounds=7, iterations=3,
                                     warmup_rounds=1)
    assert inverse.isfinite().all()
