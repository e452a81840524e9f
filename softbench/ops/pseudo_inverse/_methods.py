"""The methods as a table: what a step of each costs, what it is used with, and what it needs. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from softbench.errors import UsageError

PerMatrix = Literal["cholesky", "scaled_newton", "newton", "newton_ci", "hyperpower", "nystromformer", "eigh"]
Batch = Literal["newton_batch", "nystromformer_batch"]

# Newton's start value is taken from A, so P may not be much larger: 1.8 (1 + ridge)^2 < 2 where the diagonal of A is 1.
MAX_NEWTON_RIDGE = 0.05
SCALED_FOR = 1e6  # the largest condition number that scaled_newton is scaled for
_SCALED_RESIDUAL = 1e-12  # of its usual number of steps, in exact arithmetic


@dataclass(frozen=True)
class Method:
    """One way to invert.

    Attributes:
        products: matrix products in a step; 0 where there are no steps.
        iterations: how many steps it is usually run for; 0 where that follows from its bounds (`usual_steps`).
        direct: operations beyond the steps, in units of m^3.
        implicit: whether the gradient is that of the inverse, -V^T G V^T, instead of going back through the steps.
        max_ridge: the largest ridge with which it is sure to converge.
    """

    products: int
    iterations: int = 0
    direct: float = 0.0
    implicit: bool = True
    max_ridge: float = float("inf")


METHODS: dict[str, Method] = {
    "cholesky": Method(0, direct=1),  # 1/3 for the factor, 2/3 for the inverse from it
    "scaled_newton": Method(2),
    "newton": Method(2, 20, max_ridge=MAX_NEWTON_RIDGE),
    "newton_ci": Method(2, 20),
    "hyperpower": Method(3, 13, max_ridge=MAX_NEWTON_RIDGE),
    "nystromformer": Method(4, 6, implicit=False),
    "eigh": Method(0, direct=11),  # 9 for the decomposition (Golub and Van Loan, section 8.3), 2 for the product
    "newton_batch": Method(2, 20, direct=2, implicit=False, max_ridge=0),
    "nystromformer_batch": Method(4, 6, implicit=False),
}
LEAKING: tuple[str, ...] = get_args(Batch)


def check(method: str, ridge: float) -> None:
    """Raise UsageError for a method that does not exist or a ridge that it cannot take."""
    if method not in METHODS:
        raise UsageError(f"pseudo_inverse: method must be one of {', '.join(METHODS)}, not '{method}'.")
    most = METHODS[method].max_ridge
    if not 0 <= ridge <= most:
        raise UsageError(f"{method} may diverge with ridge {ridge:g}: use at most {most:g}, or cholesky."
                         if ridge > 0 else f"{method}: the ridge must be at least 0, not {ridge:g}.")


def usual_steps(method: str, size: int, ridge: float) -> int:
    """The steps that a method takes where no number is asked for; 0 if it has none.

    scaled_newton takes as many as bring every eigenvalue of V P within 1e-12 of 1 in exact arithmetic, by its bounds
    for a kernel with ones on the diagonal, where ||A||_1 <= size: 10 at size 49 and 12 at 400 with ridge 0.01, 14 at
    SCALED_FOR, as without a ridge.
    """
    entry = METHODS[method]
    if entry.iterations or not entry.products:
        return entry.iterations
    high = size + ridge
    low = max(ridge, high / SCALED_FOR)
    c, steps = 2 * low / (low + high), 0
    while 1 - c > _SCALED_RESIDUAL:
        t = c * (2 - c)
        c, steps = 2 * t / (1 + t), steps + 1
    return steps


def flops(size: int, *, method: str, iterations: int | None = None, ridge: float = 0.0) -> float:
    """Operations for one size x size matrix, two per multiply-add; `iterations` None is the method's usual number.

    The halvings of newton_batch come from one product, which is counted.
    """
    entry = METHODS[method]
    steps = usual_steps(method, size, ridge) if iterations is None else iterations
    return float(size**3 * (entry.direct + 2 * entry.products * steps))
