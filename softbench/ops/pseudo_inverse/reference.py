"""Pseudo-inverses written like their formulas: the oracles, one matrix product a sign.

Matrices are [G, m, m], and P = A + ridge I. For formulas of the gradients, see `inverse`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.linalg import matrix_norm

from softbench.ops._common import outside_autocast


def inverse(a: Tensor, method: str, iterations: int, ridge: float, implicit: bool) -> Tensor:
    """V after the given number of steps; if implicit with the derivative of the inverse, -V dA V, else with its own."""
    if not implicit:
        return _METHODS[method](a, iterations, ridge)
    v: Tensor = _Implicit.apply(a, method, iterations, ridge)
    return v


class _Implicit(torch.autograd.Function):
    """V with dA = -V^T G V^T, which is differentiable in turn, as V is kept with its own graph."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, method: str, iterations: int, ridge: float) -> Tensor:
        return _METHODS[method](a, iterations, ridge)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, dv: Tensor) -> tuple[Tensor, None, None, None]:
        (v,) = ctx.saved_tensors
        with outside_autocast(dv.device.type):
            return -v.mT @ dv @ v.mT, None, None, None

    @staticmethod
    def jvp(ctx: Any, da: Tensor, *_: None) -> Tensor:
        (v,) = ctx.saved_tensors
        return -v @ da @ v


def newton(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """SOFT, Algorithm 2: A_0 = alpha P; A_k = 2 A_{k-1} - A_{k-1} P A_{k-1}, with alpha = 1.8 / ||A||_1^2."""
    p = a + ridge * _identity(a)
    return _newton_steps(p, 1.8 / _norm(a, 1) ** 2 * p, iterations)


def newton_ci(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """Take the same steps from A_0 = 1.8 I / (||A||_1 + ridge)."""
    one = _identity(a)
    return _newton_steps(a + ridge * one, 1.8 / (_norm(a, 1) + ridge) * one, iterations)


def newton_batch(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """The official SOFT++ code: alpha = 2 / max ||A||_1^2, halved at most 10 times while max ||I - P A_0||_1 > 1.01."""
    one = _identity(a)
    p = a + ridge * one
    alpha, halvings = 2 / _norm(a, 1).max() ** 2, 0
    while _norm(one - p @ (alpha * p), 1).max() > 1.01 and halvings < 10:
        alpha, halvings = alpha / 2, halvings + 1
    return _newton_steps(p, alpha * p, iterations)


def scaled_newton(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """V <- s (2 V - V P V), s = 2 / (2 - d^2), d <- d^2 / (2 - d^2), from V = 2 I / (l + u), d = (u - l) / (u + l)."""
    one = _identity(a)
    p = a + ridge * one
    u = _norm(a, 1) + ridge
    l = (u / 1e6).clamp(min=ridge)  # noqa: E741
    v, d = 2 / (l + u) * one, (u - l) / (u + l)
    for _ in range(iterations):
        v = 2 / (2 - d**2) * (2 * v - v @ p @ v)
        d = d**2 / (2 - d**2)
    return v


def hyperpower(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """Order 3: V <- V (I + R + R^2) with R = I - P V, from newton's start."""
    one = _identity(a)
    p = a + ridge * one
    v = 1.8 / _norm(a, 1) ** 2 * p
    for _ in range(iterations):
        r = one - p @ v
        v = v @ (one + r + r @ r)
    return v


def nystromformer(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """Nystromformer, equation 11, from Z = P^T / (||P||_1 ||P||_inf)."""
    p = a + ridge * _identity(a)
    return _nystromformer_steps(p, p.mT / (_norm(p, 1) * _norm(p, torch.inf)), iterations)


def nystromformer_batch(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """Take the same steps with the largest norms of the batch, as in the common codes."""
    p = a + ridge * _identity(a)
    return _nystromformer_steps(p, p.mT / (_norm(p, 1).max() * _norm(p, torch.inf).max()), iterations)


def cholesky(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """(A + ridge I)^(-1), by a general solver."""
    return torch.linalg.inv(a + ridge * _identity(a))


def eigh(a: Tensor, iterations: int, ridge: float) -> Tensor:
    """(A + ridge I)^+ by singular values: those up to m eps times the largest count as zero."""
    return torch.linalg.pinv(a + ridge * _identity(a), rtol=a.shape[-1] * torch.finfo(a.dtype).eps)


def _newton_steps(p: Tensor, v: Tensor, iterations: int) -> Tensor:
    for _ in range(iterations):
        v = 2 * v - v @ p @ v
    return v


def _nystromformer_steps(p: Tensor, z: Tensor, iterations: int) -> Tensor:
    one = _identity(p)
    for _ in range(iterations):
        pz = p @ z
        z = z @ (13 * one - pz @ (15 * one - pz @ (7 * one - pz))) / 4
    return z


def _norm(a: Tensor, order: float) -> Tensor:
    return matrix_norm(a, ord=order, keepdim=True)  # [G, 1, 1]


def _identity(a: Tensor) -> Tensor:
    return torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)


_METHODS: dict[str, Callable[[Tensor, int, float], Tensor]] = {f.__name__: f for f in (
    newton, newton_ci, newton_batch, scaled_newton, hyperpower, nystromformer, nystromformer_batch, cholesky, eigh)}
