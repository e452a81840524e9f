"""Pseudo-inverses in plain torch: fused multiply-adds, and one backward for all that invert.

Matrices are [G, m, m] here. An iterative method is a generator of its iterates V_0, V_1, ...; P = A + ridge I.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from softbench.ops._common import in_forward_mode, is_traced, needs_grad, once, widened
from softbench.ops.pseudo_inverse._methods import SCALED_FOR

Course = Iterator[Tensor]


def inverse(a: Tensor, method: str, iterations: int, ridge: float, implicit: bool) -> Tensor:
    """V [G, m, m] after the given number of steps; its gradient is -V^T G V^T if implicit, else through the steps."""
    if implicit and needs_grad(a):
        result: Tensor = _Inverse.apply(a, method, iterations, ridge)
        return result
    return _run(a, method, iterations, ridge)


def _run(a: Tensor, method: str, iterations: int, ridge: float) -> Tensor:
    if method in COURSES:
        return next(islice(COURSES[method](a, ridge), iterations, None))
    return _DIRECT[method](a, ridge)


class _Inverse(torch.autograd.Function):
    """An inverse V with the implicit gradient dA = -V^T G V^T: nothing of the way to V is kept."""

    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, method: str, iterations: int, ridge: float) -> Tensor:
        v = _run(a, method, iterations, ridge)
        ctx.save_for_backward(v)
        return v

    @staticmethod
    @once
    def backward(ctx: Any, dv: Tensor) -> tuple[Tensor, None, None, None]:
        (v,) = ctx.saved_tensors
        return -torch.bmm(torch.bmm(v.mT, dv), v.mT), None, None, None


def _newton(a: Tensor, ridge: float) -> Course:
    """V <- 2 V - V P V from V = 1.8 P / ||A||_1^2."""
    p = _ridged(a, ridge)
    return _newton_steps(p, _per_matrix(1.8 / _norm_1(a).square()) * p)


def _newton_ci(a: Tensor, ridge: float) -> Course:
    """Take the same steps from V = 1.8 I / (||A||_1 + ridge)."""
    return _newton_steps(_ridged(a, ridge), _times_identity(1.8 / (_norm_1(a) + ridge), a))


def _newton_batch(a: Tensor, ridge: float) -> Course:
    """Take the same steps from V = alpha P, alpha = 2 / max ||A||_1^2, halved while max ||I - P V||_1 > 1.01."""
    p = _ridged(a, ridge)
    alpha = 2 / _norm_1(a).amax().square()
    square, one = torch.bmm(p, p), torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    for _ in range(10):
        if (one - alpha * square).abs().sum(1).amax() <= 1.01:
            break
        alpha = alpha / 2
    return _newton_steps(p, alpha * p)


def _newton_steps(p: Tensor, v: Tensor) -> Course:
    while True:
        yield v
        v = torch.baddbmm(v, v, torch.bmm(p, v), beta=2, alpha=-1)


def _scaled_newton(a: Tensor, ridge: float) -> Course:
    """V <- s (2 V - V P V) from V = 2 I / (low + high), where V P has its spectrum in [c, 2 - c].

    c = 1 - d of the formula, as d rounds to 1. What is smaller than rounding of the largest is not scaled for: it may
    be negative, and would be blown up first.
    """
    p = _ridged(a, ridge)
    high = _norm_1(widened(a)) + ridge  # [G], not in half precision, where c would round
    low = (high * max(1 / SCALED_FOR, torch.finfo(p.dtype).eps)).clamp_min(ridge)
    c = 2 * low / (low + high)
    v = _times_identity((2 / (low + high)).to(p.dtype), p)
    while True:
        yield v
        t = c * (2 - c)
        s = 2 / (1 + t)
        v = _per_matrix(s.to(p.dtype)) * torch.baddbmm(v, v, torch.bmm(p, v), beta=2, alpha=-1)
        c = s * t


def _hyperpower(a: Tensor, ridge: float) -> Course:
    """V <- V (3 I - P V (3 I - P V)) from newton's start."""
    p = _ridged(a, ridge)
    v = _per_matrix(1.8 / _norm_1(a).square()) * p
    while True:
        yield v
        pv = torch.bmm(p, v)
        v = torch.baddbmm(v, v, torch.baddbmm(pv, pv, pv, beta=3, alpha=-1), beta=3, alpha=-1)


def _nystromformer(a: Tensor, ridge: float) -> Course:
    """V <- V (13 I - P V (15 I - P V (7 I - P V))) / 4 from V = P^T / (||P||_1 ||P||_inf)."""
    p = _ridged(a, ridge)
    return _nystromformer_steps(p, p.mT / _per_matrix(_norm_1(p) * _norm_1(p.mT)))


def _nystromformer_batch(a: Tensor, ridge: float) -> Course:
    """Take the same steps with the largest norms of all matrices."""
    p = _ridged(a, ridge)
    return _nystromformer_steps(p, p.mT / (_norm_1(p).amax() * _norm_1(p.mT).amax()))


def _nystromformer_steps(p: Tensor, v: Tensor) -> Course:
    while True:
        yield v
        pv = torch.bmm(p, v)
        inner = torch.baddbmm(pv, pv, pv, beta=7, alpha=-1)  # P V (7 I - P V)
        inner = torch.baddbmm(pv, pv, inner, beta=15, alpha=-1)  # P V (15 I - ...)
        v = torch.baddbmm(v, v, inner, beta=13 / 4, alpha=-1 / 4)


def _cholesky(a: Tensor, ridge: float) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(_ridged(a, ridge))
    failed = (info != 0)[:, None, None]
    factor.masked_fill_(failed, 1)  # a zero on the diagonal would raise for the whole batch
    if in_forward_mode():  # where torch has another derivative of cholesky_inverse than its own
        one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
        inverse = torch.cholesky_solve(one, factor)
    else:
        inverse = torch.cholesky_inverse(factor)
    return inverse.masked_fill_(failed, torch.nan)


def _eigh(a: Tensor, ridge: float) -> Tensor:
    p = _ridged(a, ridge)
    broken = ~p.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)  # [G, 1, 1]; LAPACK raises for all of them
    values, vectors = torch.linalg.eigh(p.masked_fill(broken, 0))
    kept = values > values[:, -1:] * p.shape[-1] * torch.finfo(p.dtype).eps
    inverted = torch.where(kept, 1 / values, 0)  # [G, m]
    return torch.bmm(vectors * inverted.unsqueeze(1), vectors.mT).masked_fill(broken, torch.nan)


COURSES: dict[str, Callable[[Tensor, float], Course]] = {
    "newton": _newton, "newton_ci": _newton_ci, "scaled_newton": _scaled_newton, "hyperpower": _hyperpower,
    "nystromformer": _nystromformer, "newton_batch": _newton_batch, "nystromformer_batch": _nystromformer_batch}
_DIRECT: dict[str, Callable[[Tensor, float], Tensor]] = {"cholesky": _cholesky, "eigh": _eigh}


def _ridged(a: Tensor, ridge: float) -> Tensor:
    if is_traced():  # inductor may write over what it has yet to read of a diagonal
        return a + ridge * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    p = a.clone()
    p.diagonal(dim1=1, dim2=2).add_(ridge)
    return p


def _norm_1(a: Tensor) -> Tensor:
    return a.abs().sum(1).amax(1)  # [G]


def _per_matrix(scale: Tensor) -> Tensor:
    return scale[:, None, None]


def _times_identity(scale: Tensor, like: Tensor) -> Tensor:
    """scale I for each matrix, [G, m, m]."""
    return _per_matrix(scale) * torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
