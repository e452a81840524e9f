"""The floor: the smallest error that any matrix of rank m can have, from the exact matrix's singular values.

Eckart, Young and Mirsky: with singular values s_1 >= s_2 >= ... the best rank-m matrix is ||S|| - distance
    sqrt(sum_{i > m} s_i^2) in the Frobenius norm,    s_{m+1} in the spectral norm.
Over several heads, each of which may have rank m, squares are summed (Frobenius) or the largest is taken (spectral),
as for a block-diagonal matrix.

Symmetric positive semi-definite S: s are its eigenvalues, and small floors are right to about 1e-14. Otherwise s^2 are
the eigenvalues of S S^T, several times faster than a singular value decomposition, and floors below 1e-6 are rounding.
What lies below that `resolution` is given as the resolution, which is then a bound from above.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from softbench.studies.approx_error.truth import Truth

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


def resolution(truth: Truth) -> float:
    """The smallest floor that can be told from rounding."""
    return 1e-14 if truth.symmetric else 1e-6


def frobenius(spectra: list[Tensor], rank: int, smallest: float = 0.0) -> float:
    """Relative Frobenius error of the best rank-m matrices, at least `smallest`; 0 where every matrix has that rank."""
    if rank >= len(spectra[0]):
        return 0.0
    tail = sum(float(s[rank:].square().sum()) for s in spectra)
    return _at_least(smallest, (tail / sum(float(s.square().sum()) for s in spectra)) ** 0.5)


def spectral(spectra: list[Tensor], rank: int, smallest: float = 0.0) -> float:
    """Return the relative spectral error of the best rank-m matrices, with the same exceptions."""
    if rank >= len(spectra[0]):
        return 0.0
    return _at_least(smallest, max(float(s[rank]) for s in spectra) / max(float(s[0]) for s in spectra))


def _at_least(smallest: float, value: float) -> float:
    return value if math.isnan(value) else max(smallest, value)
