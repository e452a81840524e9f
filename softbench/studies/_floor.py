"""The floor: the smallest error that any matrix of rank m can have, from the exact matrix's singular values.

Eckart, Young and Mirsky: with singular values s_1 >= s_2 >= ... the best rank-m matrix is ||S|| - distance
    sqrt(sum_{i > m} s_i^2) in the Frobenius norm,    s_{m+1} in the spectral norm.
Over several heads, each of which may have rank m, squares are summed (Frobenius) or the largest is taken (spectral),
as for a block-diagonal matrix.

Symmetric positive semi-definite S: s are its eigenvalues, and small floors are right to about 1e-14. Otherwise s^2 are
the eigenvalues of S S^T, several times faster than a singular value decomposition, and floors below 1e-6 are rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softbench.studies._truth import Truth

MOST_TOKENS = 2048  # the work grows with N^3: above, no floor is given


def spectrum(truth: Truth) -> Tensor:
    """All singular values of one head's exact matrix, descending [N]; NaN where the matrix is not finite."""
    tokens = len(truth.q)
    matrix = truth.rows(torch.arange(tokens))
    if not matrix.isfinite().all():
        return matrix.new_full((tokens,), torch.nan)
    if truth.symmetric:
        return torch.linalg.eigvalsh(matrix).clamp(min=0).flip(0)
    return torch.linalg.eigvalsh(matrix @ matrix.mT).clamp(min=0).flip(0).sqrt()


def frobenius(spectra: list[Tensor], rank: int) -> float:
    """Relative Frobenius error of the best rank-m matrices."""
    tail = sum(float(s[rank:].square().sum()) for s in spectra)
    return (tail / sum(float(s.square().sum()) for s in spectra)) ** 0.5


def spectral(spectra: list[Tensor], rank: int) -> float:
    """Relative spectral error of the best rank-m matrices."""
    beyond = [float(s[rank]) if rank < len(s) else 0.0 for s in spectra]
    return max(beyond) / max(float(s[0]) for s in spectra)
