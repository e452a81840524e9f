"""Pseudo-inverses of many small matrices, [..., m, m], by a choice of methods; each matrix is treated on its own.

- `newton`: SOFT's Newton-Raphson iteration (NeurIPS 2021, Algorithm 2) on P = A + ridge I, for symmetric positive
  semi-definite A with a positive diagonal: V <- 2 V - V P V from V = alpha P, alpha = 1.8 / ||A||_1^2. It converges
  while alpha * lambda_max(P)^2 < 2; eigenvalues below about ||A||_1 / 2^(iterations / 2) are not reached in time, and
  then V is the inverse of the others only. Its gradient is that of the inverse, dA = -V^T G V^T, as in the official
  code: right where the iteration has converged, and for no more memory than V.
- `cholesky`: the inverse of P = A + ridge I by factorisation, with the same gradient. A matrix that is not positive
  definite to working precision gives NaN in every entry of its own result, and of no other.
- `nystromformer`: the third-order iteration of Nystromformer (AAAI 2021, equation 11), for any square A without a
  ridge: V <- V (13 I - A V (15 I - A V (7 I - A V))) / 4 from V = A^T / (||A||_1 ||A||_inf), the start value taken
  for each matrix by itself, where the common codes take one for the whole batch. The gradient goes through all steps.

Half precision is computed, and returned, in float32.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from softbench.errors import Unsupported, UsageError
from softbench.ops._common import widened
from softbench.ops.pseudo_inverse import eager, reference

Method = Literal["newton", "cholesky", "nystromformer"]
METHODS: tuple[str, ...] = get_args(Method)
IMPLS = {"eager": eager, "reference": reference}  # the first one is what "auto" means

# Newton's start value is taken from A, so P may not be much larger: 1.8 (1 + ridge)^2 < 2 where the diagonal of A is 1.
MAX_NEWTON_RIDGE = 0.05


def pseudo_inverse(a: Tensor, *, method: str = "newton", iterations: int = 20, ridge: float = 0.0,
                   impl: str = "auto") -> Tensor:
    """The pseudo-inverse of each matrix of `a` [..., m, m]; `iterations` is not used by `cholesky`.

    Raises:
        UsageError: unknown method, or a ridge that the method cannot take. Unsupported: no such implementation.
    """
    check(method, ridge)
    if impl != "auto" and impl not in IMPLS:
        raise Unsupported(f"pseudo_inverse has no implementation '{impl}'; it has {', '.join(IMPLS)}")
    module = IMPLS["eager" if impl == "auto" else impl]
    result: Tensor = getattr(module, method)(widened(a), iterations, ridge)
    return result


def flops(size: int, *, method: str, iterations: int) -> float:
    """Operations for one size x size matrix. `cholesky` is size^3 / 3 for the factor and 2 size^3 / 3 for the inverse
    from it; torch's counter sees neither."""
    products = {"newton": 2, "nystromformer": 4}
    return float(size**3 if method == "cholesky" else 2 * size**3 * products[method] * iterations)


def check(method: str, ridge: float) -> None:
    """Raise UsageError for a method that does not exist or a ridge that makes it diverge."""
    if method not in METHODS:
        raise UsageError(f"pseudo_inverse: method must be one of {', '.join(METHODS)}, not '{method}'.")
    if method == "newton" and not 0 <= ridge <= MAX_NEWTON_RIDGE:
        raise UsageError(f"newton may diverge with ridge {ridge:g}: use at most {MAX_NEWTON_RIDGE}, or cholesky.")
    if method == "nystromformer" and ridge:
        raise UsageError("nystromformer's inverse takes no ridge: leave it at 0.")
