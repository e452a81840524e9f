"""Gaussian attention: `y_i = sum_j exp(-|x_i - k_j|^2 / 2) v_j`, and the scores themselves.

Shapes: x is [B, H, N, D], k is [B, H, M, D], v is [B, H, M, E]. A scale in the exponent belongs into x and k: tokens
times D^(-1/4) give exp(-|q - k|^2 / (2 sqrt(D))), the attention of SOFT (NeurIPS 2021, equations 4 and 5).

Half precision is computed in float32. Scores in half precision would be rounded before they are summed, so
`gaussian_kernel` returns float32 for half inputs; `gaussian_attention` returns the dtype of v.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from softbench.errors import Unsupported
from softbench.ops.gaussian_attention import eager, reference

IMPLS = {"eager": eager, "reference": reference}  # the first one is what "auto" means


def gaussian_attention(x: Tensor, k: Tensor, v: Tensor, *, impl: str = "auto") -> Tensor:
    """Sum the values weighted by the Gaussian kernel, [B, H, N, E], without keeping the N x M scores.

    Differentiable once in x, k and v. Swapping the sides gives the gradient by v: `gaussian_attention(k, x, dy)`.

    Raises:
        Unsupported: no implementation of that name.
    """
    return _module(impl).attention(x, k, v)


def gaussian_kernel(x: Tensor, k: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """The scores `exp(-|x_i - k_j|^2 / 2)` as a tensor, [B, H, N, M], for the cases where M is small.

    Without k the tokens are compared with themselves, and the diagonal is exactly 1. Differentiable once in x and k.

    Raises:
        Unsupported: no implementation of that name.
    """
    return _module(impl).kernel(x, x if k is None else k)


def _module(impl: str) -> ModuleType:
    if impl == "auto":
        return next(iter(IMPLS.values()))
    if impl not in IMPLS:
        raise Unsupported(f"gaussian_attention has no implementation '{impl}'; it has {', '.join(IMPLS)}")
    return IMPLS[impl]
