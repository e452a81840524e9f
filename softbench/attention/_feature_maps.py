"""Attentions with a feature map share this: products in linear order, the normaliser, depthwise convolutions of v.

With features f(q), f(k) [B, H, N, r] and values [B, H, N, E]; nothing of size N x N is made.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.errors import UsageError
from softbench.ops._common import needs_grad


def normalised(fq: Tensor, fk: Tensor, v: Tensor, eps: float, norm_q: Tensor | None = None,
               norm_k: Tensor | None = None, clamp: bool = False) -> Tensor:
    """f(q) mean_j f(k_j) v_j^T / (f(q) mean_j f(k_j) + eps), [B, H, N, E]; means over the keys.

    Means keep sums in range at any N, and make eps mean the same at any N. With `clamp` the denominator is at least
    eps instead. `norm_q`, `norm_k` are the features of the denominator, where they are others.
    """
    share = 1 / fk.shape[2]
    values = (fk.mT @ v) * share  # [B, H, r, E]
    mean = (fk if norm_k is None else norm_k).sum(-2).unsqueeze(-1) * share  # [B, H, r, 1]
    return over(fq @ values, (fq if norm_q is None else norm_q) @ mean, eps, clamp)


def over(y: Tensor, norm: Tensor, eps: float | Tensor, clamp: bool = False) -> Tensor:
    """y / (norm + eps), or y / max(norm, eps); y [B, H, N, E] is used up, norm is [B, H, N, 1]."""
    norm = norm.clamp_min(eps) if clamp else norm + eps
    if needs_grad(y, norm):
        return y * norm.reciprocal()  # the gradient of a quotient takes more passes over y
    return y.div_(norm)


class _EluPlusOne(torch.autograd.Function):
    """elu(x) + 1, whose derivative is min(elu(x) + 1, 1): the output is all that is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp(max=0).exp_().add_(x.clamp(min=0))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return gradient * y.clamp(max=1)


def elu_plus_one(x: Tensor) -> Tensor:
    """elu(x) + 1 = exp(min(x, 0)) + max(x, 0), which keeps its digits where x is very negative."""
    return _EluPlusOne.apply(x)


def check_odd(size: int) -> None:
    """Raises UsageError for a convolution of even size, whose output would lie beside its input."""
    if size and size % 2 == 0:
        raise UsageError(f"conv must be odd, or 0 for none, not {size}.")


class DepthwiseConv(nn.Module):
    """Convolution of v over the token grid, a filter and a bias for each channel.

    Args:
        heads: 1 where all heads share the filters of the channels [E], or how many heads have filters of their own.
    """

    def __init__(self, heads: int, channels: int, size: int) -> None:
        super().__init__()
        count = heads * channels
        self.filters = nn.Conv2d(count, count, size, padding=size // 2, groups=count)

    def forward(self, v: Tensor, grid: tuple[int, int]) -> Tensor:
        b, h, n, e = v.shape
        conv = self.filters
        weight, bias = conv.weight.to(v.dtype), conv.bias
        shared = conv.groups == e
        tokens = v.reshape(b * h, n, e) if shared else v.transpose(1, 2).reshape(b, n, h * e)
        image = tokens.unflatten(1, grid).permute(0, 3, 1, 2)  # [B H, E, rows, cols], channels last in memory
        y = F.conv2d(image, weight, None if bias is None else bias.to(v.dtype), padding=conv.padding,
                     groups=conv.groups)
        y = y.flatten(2).mT  # [B H, N, E]
        return y.unflatten(0, (b, h)) if shared else y.unflatten(-1, (h, e)).transpose(1, 2)


def added(y: Tensor, v: Tensor, conv: DepthwiseConv | None, grid: tuple[int, int]) -> Tensor:
    """y + conv(v), or y where there is no convolution; y is used up."""
    if conv is None:
        return y
    local = conv(v, grid)
    return y + local if needs_grad(y, local) else y.add_(local)


def quotient_flops(tokens: int, features: int, head_dim: int) -> float:
    """Count the operations of `normalised` in one head: two products with N r E, and one for the denominator."""
    return 4.0 * tokens * features * head_dim + 2.0 * tokens * features
