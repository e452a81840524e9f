"""How near to the inverse an iteration is after each step, for a stack of matrices; residuals are taken in float64.

With P = A + ridge I and V what stands for its inverse, for each matrix:
    residual_ava = ||A V A - A||_F / ||A||_F    the paper's Figure 4b, with the Frobenius norm
    residual_iav = ||I - A V||_F / sqrt(m)
    residual_ipv = ||I - P V||_F / sqrt(m)      0 for the inverse of P, 1 for V = 0
    residual_ivp = ||I - V P||_F / sqrt(m)
    residual = the larger of these two          what a method is judged by
    error_inverse = ||V - P^-1||_F / ||P^-1||_F
    error_pinv = ||V - A^+||_F / ||A^+||_F      A^+ counts eigenvalues up to m eps times the largest as zero
In exact arithmetic both sides are the same. In float32 the order of the products decides which of them is small:
V <- 2 V - V (P V), as here, keeps I - P V a hundred times smaller than I - V P where P is ill-conditioned; (V P) V does
it the other way round, and V is as near to the inverse either way.
The matrices A in float64 are the truth for all dtypes: what rounding A itself does is part of the result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from softbench.dtypes import HALF, name_of
from softbench.errors import Unsupported
from softbench.ops import pseudo_inverse as op

QUANTITIES = ("residual_ava", "residual_iav", "residual_ipv", "residual_ivp", "residual", "error_inverse", "error_pinv")
_FACTORISED = ("cholesky", "eigh")


@dataclass(frozen=True)
class Truth:
    """Matrices A with what is known of them exactly, all [G, m, m] in float64.

    `inverse` is that of A + ridge I, NaN where it is singular; `pinv` is A^+.
    """

    a: Tensor
    ridge: float
    inverse: Tensor
    pinv: Tensor

    @classmethod
    def of(cls, a: Tensor, ridge: float) -> Truth:
        finite = a.isfinite().all(-1).all(-1)[:, None, None]
        values, vectors = torch.linalg.eigh(torch.where(finite, a, 0))  # LAPACK raises for all of them if one is NaN
        zero = values.abs() <= values[:, -1:].abs() * a.shape[-1] * torch.finfo(a.dtype).eps  # [G, m]
        exists = finite if ridge else finite & ~zero.any(-1)[:, None, None]
        inverse = torch.where(exists, _assembled(vectors, 1 / (values + ridge)), torch.nan)
        return cls(a, ridge, inverse, _assembled(vectors, torch.where(zero, 0, 1 / values)))

    def distances(self, v: Tensor) -> dict[str, Tensor]:
        """Return the quantities for V [G, m, m] of any dtype, each [G]."""
        v = v.double()
        av = self.a @ v
        one = torch.eye(v.shape[-1], dtype=v.dtype)
        rest = one - self.ridge * v
        sides = [_norm(rest - product) / len(one) ** 0.5 for product in (av, v @ self.a)]
        return {
            "residual_ava": _norm(av @ self.a - self.a) / _norm(self.a),
            "residual_iav": _norm(one - av) / len(one) ** 0.5,
            "residual_ipv": sides[0],
            "residual_ivp": sides[1],
            "residual": torch.maximum(*sides),
            "error_inverse": _norm(v - self.inverse) / _norm(self.inverse),
            "error_pinv": _norm(v - self.pinv) / _norm(self.pinv),
        }


@dataclass(frozen=True)
class Course:
    """The distances after 0, 1, 2, ... steps: [steps + 1, G] for each quantity; one entry for a direct method."""

    distances: dict[str, Tensor]
    direct: bool

    def after(self, steps: int) -> dict[str, Tensor]:
        """Return the distances [G] after that many steps."""
        return {name: values[0 if self.direct else steps] for name, values in self.distances.items()}

    def needed(self, tolerance: float, quantity: str = "residual") -> Tensor:
        """The step from which on the quantity stays within the tolerance, [G]; infinite where it does not end there."""
        within = self.distances[quantity] <= tolerance  # [steps + 1, G]
        lasting = within.flip(0).int().cumprod(0).sum(0)  # how many of the last entries are within
        return torch.where(lasting > 0, (len(within) - lasting).double(), torch.inf)


def run(truth: Truth, method: str, dtype: torch.dtype, steps: int) -> Course:
    """The course of a method whose matrices are stored, and whose arithmetic is done, in that dtype.

    Raises:
        Unsupported: a factorisation in half precision, which LAPACK does not have.
    """
    a, ridge = truth.a.to(dtype), truth.ridge
    with torch.no_grad():
        iterates: Iterable[Tensor]
        if method in _FACTORISED:
            if (name := name_of(dtype)) in HALF:
                raise Unsupported(f"{method} has no arithmetic in {name}")
            iterates = [op.pseudo_inverse(a, method=method, ridge=ridge)]
        else:
            iterates = islice(op.iterates(a, method=method, ridge=ridge), steps + 1)
        distances = [truth.distances(v) for v in iterates]
    return Course({q: torch.stack([s[q] for s in distances]) for q in QUANTITIES}, direct=method in _FACTORISED)


def value(truth: Truth, method: str, dtype: torch.dtype, steps: int) -> Tensor:
    """V after that many steps, [G, m, m]."""
    a = truth.a.to(dtype)
    with torch.no_grad():
        if method in _FACTORISED:
            return op.pseudo_inverse(a, method=method, ridge=truth.ridge)
        return next(islice(op.iterates(a, method=method, ridge=truth.ridge), steps, None))


def _assembled(vectors: Tensor, values: Tensor) -> Tensor:
    return (vectors * values.unsqueeze(1)) @ vectors.mT


def _norm(a: Tensor) -> Tensor:
    return a.norm(dim=(-2, -1))
