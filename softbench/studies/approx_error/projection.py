"""Linformer's projections, fitted: at random weights its error says nothing about the method.

Linformer is softmax(q (E^T k)^T / sqrt(D)) F^T v with E, F [N, r]. E pools the token grid into at most r windows, the
spatial reduction that vision models give it. F is then the regularised least-squares solution over held-out samples of
the same family: with P_i = softmax(q_i (E^T k_i)^T / sqrt(D)) [N, r], exact matrices S_i, and sums over all heads,

    F^T = argmin sum_i ||S_i - P_i F^T||_F^2 + lambda ||F||_F^2 = (sum_i P_i^T P_i + lambda I)^(-1) sum_i P_i^T S_i.

lambda is the one of RIDGES with the least error on samples left out one by one, as columns of P are nearly alike. This
is the best linear read-out for these E, not the best E: training may find better ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from softbench.attention._landmarks import avg_pool, landmark_grid
from softbench.studies.approx_error.truth import Softmax, tiles

MOST_TOKENS = 4096  # F takes the exact matrices of all held-out samples
RIDGES = tuple(10.0**power for power in range(-9, 2))  # lambda over the mean diagonal of P^T P

Sums = tuple[Tensor, Tensor]  # P^T P [r, r] and P^T S [r, N] of one sample, over its heads


def can_fit(module: nn.Module) -> bool:
    """True where these are Linformer's parameters and no others."""
    return {name for name, _ in module.named_parameters()} == {"project_k", "project_v"}


def fit(module: nn.Module, samples: Iterable[Sequence[tuple[Tensor, Tensor]]], grid: tuple[int, int]) -> None:
    """Set both projections from held-out samples, each a list of heads, q and k [N, D] in float64."""
    tokens, size = module.get_parameter("project_k").shape
    pool = torch.zeros(size, tokens, dtype=torch.float64)
    windows = avg_pool(torch.eye(tokens, dtype=torch.float64)[None, None], grid, landmark_grid(grid, size))[0, 0]
    pool[: len(windows)] = windows
    sums = [_sums(pool, heads) for heads in samples]
    total = _total(sums)
    errors = [sum(_excess(_solve(_total(sums[:i] + sums[i + 1 :]), ridge), sums[i]) for i in range(len(sums)))
              for ridge in RIDGES]
    read_out = _solve(total, RIDGES[errors.index(min(errors))])
    with torch.no_grad():
        module.get_parameter("project_k").copy_(pool.mT)
        module.get_parameter("project_v").copy_(read_out.mT)


def _sums(pool: Tensor, heads: Sequence[tuple[Tensor, Tensor]]) -> Sums:
    size, tokens = pool.shape
    gram, target = pool.new_zeros(size, size), pool.new_zeros(size, tokens)
    for q, k in heads:
        weights = Softmax(q, pool @ k).rows(torch.arange(tokens))  # P [N, r]
        gram += weights.mT @ weights
        for tile in tiles(torch.arange(tokens), tokens):
            target += weights[tile].mT @ Softmax(q, k).rows(tile)
    return gram, target


def _total(sums: Sequence[Sums]) -> Sums:
    return torch.stack([gram for gram, _ in sums]).sum(0), torch.stack([target for _, target in sums]).sum(0)


def _solve(total: Sums, ridge: float) -> Tensor:
    """F^T [r, N]; NaN where the sums have none."""
    gram, target = total
    lifted = gram + ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    factor, info = torch.linalg.cholesky_ex(lifted)
    return torch.full_like(target, torch.nan) if info else torch.cholesky_solve(target, factor)


def _excess(read_out: Tensor, sums: Sums) -> float:
    """||S - P F^T||_F^2 of a sample, less ||S||_F^2; infinite for a read-out that is NaN."""
    gram, target = sums
    excess = float((read_out * (gram @ read_out - 2 * target)).sum())
    return math.inf if math.isnan(excess) else excess
