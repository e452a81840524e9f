"""The methods as a table: what a step of each costs, what it is used with, and what it needs. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from softbench.errors import UsageError

PerMatrix = Literal["cholesky", "scaled_newton", "newton", "newton_ci", "hyperpower", "nystromformer", "eigh"]
Batch = Literal["newton_batch", "nystromformer_batch"]

# Newton's start value is taken from A, so P may not be much larger: 1.8 (1 + ridge)^2 < 2 where the diagonal of A is 1.
MAX_NEWTON_RIDGE = 0.05


@dataclass(frozen=True)
class Method:
    """One way to invert.

    Attributes:
        products: matrix products in a step; 0 where there are no steps.
        iterations: how many steps it is usually run for.
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
    "scaled_newton": Method(2, 10),
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


def flops(size: int, *, method: str, iterations: int | None = None) -> float:
    """Operations for one size x size matrix, two per multiply-add; `iterations` None is the method's usual number.

    The halvings of newton_batch come from one product, which is counted.
    """
    entry = METHODS[method]
    steps = entry.iterations if iterations is None else iterations
    return float(size**3 * (entry.direct + 2 * entry.products * steps))
