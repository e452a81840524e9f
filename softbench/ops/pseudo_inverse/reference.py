"""Pseudo-inverses written like their formulas: the oracles, one matrix product a sign."""

from __future__ import annotations

import torch
from torch import Tensor


def newton(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """SOFT, Algorithm 2: A_0 = alpha P; A_k = 2 A_{k-1} - A_{k-1} P A_{k-1}, with P = A + ridge I.

    The gradient is that of the inverse at A_k: the last line has the value A_k and the derivative -A_k dP A_k.
    """
    p = a + ridge * _identity(a)
    fixed = p.detach()
    alpha = 1.8 / torch.linalg.matrix_norm(a.detach(), ord=1, keepdim=True) ** 2
    v = alpha * fixed
    for _ in range(iterations):
        v = 2 * v - v @ fixed @ v
    return v - v @ (p - fixed) @ v


def cholesky(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """(A + ridge I)^(-1), by a general solver."""
    return torch.linalg.inv(a + ridge * _identity(a))


def nystromformer(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """Nystromformer, equation 11: Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4."""
    one = _identity(a)
    z = a.mT / (torch.linalg.matrix_norm(a, ord=1, keepdim=True)
                * torch.linalg.matrix_norm(a, ord=torch.inf, keepdim=True))
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * one - az @ (15 * one - az @ (7 * one - az))) / 4
    return z


def _identity(a: Tensor) -> Tensor:
    return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
