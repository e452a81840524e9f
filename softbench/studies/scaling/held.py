"""The bytes that a call holds as a + b N + c N^2, and the length at which they reach a limit.

Tensors add up, so that the bytes of all of them are a polynomial in N whose terms are not negative; a power fitted in
log-log would bend away from it beyond the lengths measured. Of a + b N, a + c N^2 and all three terms the one is
taken that Schwarz's criterion prefers; a square that only follows irregularities would ruin a prediction. Only
lengths from a quarter of the longest on count, and at least three: kernels that change with N put steps into shorter
ones, and the longest decide where memory ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

_FEWEST, _SHARE = 3, 0.25  # lengths that count, and their share of the longest
_CANDIDATES = ((1, 1, 0), (1, 0, 1), (1, 1, 1))  # which of the terms there are
_RESOLUTION = 1e-6  # of the mean square of relative residuals
_SUBSTANTIAL = 0.2  # share of the longest length's bytes that a square has, unless the fit is exact

Array = NDArray[np.float64]


def end(tokens: Sequence[float], held: Sequence[float], limit: float) -> float:
    """The length at which the held bytes reach the limit; infinite where they do not grow, 0 where all are beyond it.

    Args:
        tokens, held: at least three lengths, ascending, and bytes at each.
    """
    first = min(len(tokens) - _FEWEST, sum(n < _SHARE * tokens[-1] for n in tokens))
    n, y = np.asarray(tokens[first:], float), np.asarray(held[first:], float)
    fits = [_terms(n / n.max(), y, kept) for kept in _CANDIDATES if sum(kept) < len(n)]
    constant, linear, square = min(fits, key=lambda one: one[0])[1]
    rest = limit - constant
    if rest <= 0:
        return 0.0
    if not linear and not square:
        return math.inf
    # The positive root of square x^2 + linear x = rest, in the form that does not cancel.
    return float(n.max() * 2 * rest / (linear + math.sqrt(linear**2 + 4 * square * rest)))


def _terms(x: Array, y: Array, kept: Sequence[int]) -> tuple[float, Array]:
    """The criterion and the coefficients of 1, x and x^2 where only the terms that are kept may be positive."""
    design = np.stack([np.ones_like(x), x, x**2], 1) * np.array(kept)
    coefficients = nnls(design, y)[0]
    relative = (design @ coefficients - y) / y
    mean = float(relative @ relative) / len(x)
    if sum(kept) == 3 and mean > _RESOLUTION and coefficients[2] < _SUBSTANTIAL * y[-1]:
        return math.inf, coefficients
    return len(x) * math.log(mean + _RESOLUTION) + sum(kept) * math.log(len(x)), coefficients
