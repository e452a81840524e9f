"""The N x N matrix of an attention module for one head, by rows, from calls of the module alone.

The module is linear in v, y = S v. Which way its rows are found depends on N and on its rank:

- up to DENSE tokens, S = module(q, k, I);
- of low rank r, S = L R: with w = r + 8 random columns in v, L is an orthonormal basis of what the module makes of them
  [N, w], and R = L^T S [w, N] is the gradient by v with L as the cotangent. As rank(S) <= r, L spans its range, and
  L R = S within rounding (Halko, Martinsson, Tropp 2011, section 4); one more call with a new v confirms it;
- otherwise rows of S are gradients by v of rows of y, for a tile of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

DENSE = 2048
_EXTRA = 8
_AGREEMENT = 1e-8

Rows = Callable[[Tensor], Tensor]  # row numbers [n] -> rows of the matrix [n, N]


def matrix_rows(module: nn.Module, q: Tensor, k: Tensor, grid: tuple[int, int], rank: int | None) -> Rows:
    """Rows of the module's matrix for one head; q, k are [N, D], `rank` bounds the matrix's rank if it is known."""
    tokens = len(q)
    if tokens <= DENSE:
        matrix = apply(module, q, k, torch.eye(tokens, dtype=q.dtype), grid)
        return lambda index: matrix[index]
    if rank is not None and 2 * rank < tokens and (factors := _factors(module, q, k, grid, rank)) is not None:
        return factors
    return _Adjoint(module, q, k, grid)


def apply(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the module's output [N, E] for one head, without a graph."""
    with torch.no_grad():
        return call(module, q, k, v, grid)


def call(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the module's output [N, E] for one head."""
    keys = q[None, None] if k is q else k[None, None]
    output: Tensor = module(q[None, None], keys, v[None, None], grid=grid)
    return output[0, 0]


def single(rows: Rows) -> Rows:
    """Return the same rows in float32."""
    if isinstance(rows, _LowRank):
        return _LowRank(rows.left.float(), rows.right.float())
    return lambda index: rows(index).float()


@dataclass(frozen=True)
class _LowRank:
    """L [N, w] and R [w, N]."""

    left: Tensor
    right: Tensor

    def __call__(self, index: Tensor) -> Tensor:
        return self.left[index] @ self.right


class _Adjoint:
    """Rows by vector-Jacobian products."""

    def __init__(self, module: nn.Module, q: Tensor, k: Tensor, grid: tuple[int, int]) -> None:
        self.module, self.q, self.k, self.grid = module, q, k, grid

    def __call__(self, index: Tensor) -> Tensor:
        chosen = self.q.new_zeros(len(self.q), len(index))
        chosen[index, torch.arange(len(index))] = 1
        return _transposed(self.module, self.q, self.k, self.grid, chosen).mT


def _factors(module: nn.Module, q: Tensor, k: Tensor, grid: tuple[int, int],
             rank: int) -> _LowRank | None:
    """The factors, or None where their product is not the module's matrix."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(len(q), rank + _EXTRA, dtype=q.dtype, generator=generator)
    left = torch.linalg.qr(apply(module, q, k, columns, grid)).Q
    del columns
    right = _transposed(module, q, k, grid, left).mT
    probe = torch.randn(len(q), 1, dtype=q.dtype, generator=generator)
    product = apply(module, q, k, probe, grid)
    if (left @ (right @ probe) - product).norm() <= _AGREEMENT * product.norm():
        return _LowRank(left, right)
    return None


def _transposed(module: nn.Module, q: Tensor, k: Tensor, grid: tuple[int, int], y: Tensor) -> Tensor:
    """S^T y: the gradient by v of the sum of y * (S v)."""
    v = torch.zeros_like(y, requires_grad=True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(call(module, q, k, v, grid), v, y)
    return gradient
