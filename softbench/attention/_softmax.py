"""Softmax attention to any keys, softmax(q k^T / sqrt(D)) v: the step that many attentions end with."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from softbench.contracts.attention import accumulation_dtype


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, impl: str, mask: Tensor | None = None,
                      dtype: torch.dtype | None = None, causal: bool = False) -> Tensor:
    """q [..., N, D], k [..., M, D], v [..., M, E] -> [..., N, E]; k and v may be wider than q.

    Args:
        impl: "sdpa" is torch's fused attention in the dtype of q; else the N x M scores are written out, in float32
            for half precision.
        mask: True where a query sees a key.
        dtype: of the result, where v is wider than the values were.
        causal: query i sees the first i keys.
    """
    dtype = dtype or v.dtype
    if impl == "sdpa":
        return F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(dtype), attn_mask=mask, is_causal=causal)
    acc = accumulation_dtype(q.dtype)
    scores = (q.to(acc) * q.shape[-1] ** -0.5) @ k.to(acc).mT  # [..., N, M]
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return (scores.softmax(-1) @ v.to(acc)).to(dtype)
