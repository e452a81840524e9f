"""Pseudo-inverses in plain torch: fused multiply-adds, and one backward for all that invert.

Matrices are flattened to [G, m, m] here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from softbench.ops._common import needs_grad, once


def newton(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """V <- 2 V - V P V from V = alpha P, with P = A + ridge I and alpha = 1.8 / ||A||_1^2 of each matrix."""
    return _inverse(_newton, a, iterations, ridge)


def cholesky(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """(A + ridge I)^(-1) from the Cholesky factor; NaN for a matrix that has none."""
    return _inverse(_cholesky, a, iterations, ridge)


def nystromformer(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4 from Z = A^T / (||A||_1 ||A||_inf) of each matrix."""
    matrices = a.reshape(-1, *a.shape[-2:])
    size = matrices.abs()
    z = matrices.mT / (size.sum(1).amax(1) * size.sum(2).amax(1))[:, None, None]
    for _ in range(iterations):
        az = torch.bmm(matrices, z)
        inner = torch.baddbmm(az, az, az, beta=7, alpha=-1)  # A Z (7 I - A Z)
        inner = torch.baddbmm(az, az, inner, beta=15, alpha=-1)  # A Z (15 I - ...)
        z = torch.baddbmm(z, z, inner, beta=13 / 4, alpha=-1 / 4)
    return z.view_as(a)


_Forward = Callable[[Tensor, int, float], Tensor]


def _inverse(forward: _Forward, a: Tensor, iterations: int, ridge: float) -> Tensor:
    matrices = a.reshape(-1, *a.shape[-2:])
    if needs_grad(a):
        return _Inverse.apply(matrices, forward, iterations, ridge).view_as(a)
    return forward(matrices, iterations, ridge).view_as(a)


class _Inverse(torch.autograd.Function):
    """An inverse V with the implicit gradient dA = -V^T G V^T: nothing of the way to V is kept."""

    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, forward: _Forward, iterations: int, ridge: float) -> Tensor:
        v = forward(a, iterations, ridge)
        ctx.save_for_backward(v)
        return v

    @staticmethod
    @once
    def backward(ctx: Any, dv: Tensor) -> tuple[Tensor, None, None, None]:
        (v,) = ctx.saved_tensors
        return -torch.bmm(torch.bmm(v.mT, dv), v.mT), None, None, None


def _newton(a: Tensor, iterations: int, ridge: float) -> Tensor:
    alpha = 1.8 / a.abs().sum(1).amax(1).square()  # [G]
    p = _ridged(a, ridge)
    v = alpha[:, None, None] * p
    for _ in range(iterations):
        v = torch.baddbmm(v, v, torch.bmm(p, v), beta=2, alpha=-1)
    return v


def _cholesky(a: Tensor, iterations: int, ridge: float) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(_ridged(a, ridge))
    failed = info != 0  # [G]
    factor.diagonal(dim1=1, dim2=2).masked_fill_(failed[:, None], 1)  # a zero there would raise for the whole batch
    return torch.cholesky_inverse(factor).masked_fill_(failed[:, None, None], torch.nan)


def _ridged(a: Tensor, ridge: float) -> Tensor:
    p = a.clone()
    p.diagonal(dim1=1, dim2=2).add_(ridge)
    return p
