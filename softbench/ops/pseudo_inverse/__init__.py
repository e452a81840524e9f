"""Pseudo-inverses of many small matrices, [..., m, m], by a choice of methods.

All but `nystromformer` are for symmetric positive semi-definite A with a positive diagonal. They invert
P = A + ridge I, where l and u below stand for its spectral bounds, l = ridge and u = ||A||_1 + ridge.

- `cholesky`: by factorisation. A matrix that is not positive definite to working precision gives NaN in every entry of
  its own result, and of no other.
- `scaled_newton`: V <- s (2 V - V P V) from V = 2 I / (l + u). V is a polynomial in P, so V P has eigenvalues x in
  [1 - d, 1 + d] with d = (u - l) / (u + l), and 2 x - x^2 = 1 - (1 - x)^2 is in [1 - d^2, 1]. Scaled by
  s = 2 / (2 - d^2) this is [1 - d', 1 + d'] again, with d' = d^2 / (2 - d^2): small eigenvalues grow by 4 a step, not
  by 2. With ridge 0.01, the residual is below 1e-12 in exact arithmetic after 10 steps where m = 49 and after 12
  where m = 400; as many are taken where no number is asked for. Where the ridge is less than u / 10^6, or 0, l is
  u / 10^6, and smaller eigenvalues come later. A singular A needs a ridge, as with newton_ci. Source: Pan and
  Schreiber, SIAM J. Sci. Stat. Comput. 12 (1991), 1109-1130.
- `newton`: SOFT's Newton-Raphson iteration (NeurIPS 2021, Algorithm 2): V <- 2 V - V P V from V = alpha P,
  alpha = 1.8 / ||A||_1^2. It converges while alpha * lambda_max(P)^2 < 2; eigenvalues below about
  ||A||_1 / 2^(iterations / 2) are not reached in time, and then V is the inverse of the others only.
- `newton_ci`: the same from V = 1.8 I / u, which needs about half as many steps for small eigenvalues. Without a ridge
  it does not tend to A^+ where A is singular: what is in the null space of A doubles at each step, until rounding
  carries it into the rest and the iteration diverges.
- `hyperpower`: the iteration of order 3, V <- V (I + R + R^2) with R = I - P V, from newton's start.
- `nystromformer`: V <- V (13 I - P V (15 I - P V (7 I - P V))) / 4 from V = P^T / (||P||_1 ||P||_inf), for any square
  matrix (AAAI 2021, equation 11), the start value taken for each matrix by itself.
- `eigh`: by eigenvalues; those up to m eps times the largest count as zero, so that it gives A^+ without a ridge.

Two more are kept to compare with codes in the wild. They take one start value for all matrices of the call, so that the
result of a sample depends on its batch; no attention here uses them:

- `newton_batch`: the official SOFT++ code. alpha = 2 / max ||A||_1^2, halved at most 10 times while a column of
  |I - P V| sums to more than 1.01; no ridge. Where A = I it gives 0.
- `nystromformer_batch`: the start of the common Nystromformer codes, with the largest norms of the batch.

Gradients: -V^T G V^T, right where V is the inverse, for no more memory than V; through all steps in the methods of
Nystromformer and in `newton_batch`, as in the codes they come from. `reference` can be differentiated again, by the
same formula, and is right where V is the inverse; the other implementations refuse. Forwards (dual tensors,
`torch.func.jvp`), the derivatives of `eager` go through all steps. Half precision is computed, and returned, in
float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from torch import Tensor

from softbench.errors import UsageError
from softbench.ops import dispatch
from softbench.ops._common import uncast, widened
from softbench.ops.pseudo_inverse import _watching, eager, reference
from softbench.ops.pseudo_inverse._methods import (
    LEAKING,
    MAX_NEWTON_RIDGE,
    METHODS,
    Method,
    PerMatrix,
    check,
    flops,
    usual_steps,
)
from softbench.ops.pseudo_inverse._watching import Watch, residual, watch

__all__ = ["LEAKING", "MAX_NEWTON_RIDGE", "METHODS", "Method", "PerMatrix", "Watch", "check", "flops",
           "iterates", "pseudo_inverse", "residual", "usual_steps", "watch"]

LARGEST = 128  # rows of the matrices that the Triton kernels take
_IN_TRITON = ("cholesky", "scaled_newton", "newton")


@uncast
def pseudo_inverse(a: Tensor, *, method: str = "cholesky", iterations: int | None = None, ridge: float = 0.0,
                   impl: str = "auto") -> Tensor:
    """The pseudo-inverse of each matrix of `a` [..., m, m], after `iterations` steps (None: as many as is usual).

    Raises:
        UsageError: unknown method, or a ridge that the method cannot take.
        Unsupported: no implementation of that name, or one that cannot run here.
    """
    check(method, ridge)
    entry, wide = METHODS[method], widened(a)
    if not wide.numel():  # norms have no maximum over nothing
        return wide
    module = _module(impl, wide, method)
    steps = usual_steps(method, int(a.shape[-1]), ridge) if iterations is None or not entry.products else iterations
    matrices = wide.reshape(-1, *a.shape[-2:])  # [G, m, m]
    result: Tensor = module.inverse(matrices, method, steps, ridge, entry.implicit).view_as(a)
    _watching.tell(wide, result, ridge, f"{steps} steps of {method}" if steps else method)
    return result


def _module(impl: str, a: Tensor, method: str) -> ModuleType:
    name = dispatch.resolve("pseudo_inverse", impl, a.device, lambda: _triton_lacks(a, method))
    if name == "triton":
        from softbench.ops.pseudo_inverse import triton

        return triton
    return {"eager": eager, "reference": reference}[name]


def _triton_lacks(a: Tensor, method: str) -> str:
    if method not in _IN_TRITON:
        return f"it has {', '.join(_IN_TRITON)}, not {method}"
    if a.shape[-1] > LARGEST:
        return f"matrices may have {LARGEST} rows at most, not {a.shape[-1]}"
    return dispatch.triton_lacks(a.device.type, a.dtype)


def iterates(a: Tensor, *, method: str, ridge: float = 0.0) -> Iterator[Tensor]:
    """V_0, V_1, V_2, ... of an iterative method, without end; [G, m, m] as `a`, whose dtype the arithmetic has.

    Autograd goes through all the steps, whatever the gradient of the method is otherwise.

    Raises:
        UsageError: a method without steps, or a ridge that it cannot take.
    """
    check(method, ridge)
    if method not in eager.COURSES:
        raise UsageError(f"{method} has no steps; these have: {', '.join(eager.COURSES)}.")
    return eager.COURSES[method](a, ridge)
