"""How right the gradient of an inverse is: by the implicit formula at V, and by autograd through the steps.

For a random cotangent G the truth is that of the inverse itself, -P^-T G P^-T in float64. Gradients are by A; the
cosine of two gradients is 1 where they point the same way and -1 where a step downhill goes uphill.
"""

from __future__ import annotations

from itertools import islice
from typing import Literal

import torch
from torch import Tensor

from softbench.ops import pseudo_inverse as op
from softbench.ops._common import widened
from softbench.studies.pinv.courses import Truth, value

Way = Literal["op", "unrolled", "in_dtype"]
QUANTITIES = ("gradient_error", "gradient_cosine", "unrolled_error", "unrolled_cosine", "agreement_cosine")


def compare(truth: Truth, method: str, dtype: torch.dtype, steps: int, seed: int) -> dict[str, Tensor]:
    """For each matrix, [G]: relative error and cosine to the truth of the implicit gradient and, where the method has
    steps, of the unrolled one; `agreement_cosine` is between these two."""
    generator = torch.Generator().manual_seed(seed)
    cotangent = torch.randn(truth.a.shape, generator=generator, dtype=torch.float64)
    exact = _implicit(truth.inverse, cotangent)
    ours = _implicit(value(truth, method, dtype, steps), cotangent.to(dtype)).double()
    compared = {"gradient_error": _error(ours, exact), "gradient_cosine": _cosine(ours, exact)}
    if op.METHODS[method].products:
        unrolled = _unrolled(truth, method, dtype, steps, cotangent)
        compared |= {"unrolled_error": _error(unrolled, exact), "unrolled_cosine": _cosine(unrolled, exact),
                     "agreement_cosine": _cosine(ours, unrolled)}
    return compared


def saved_bytes(a: Tensor, method: str, steps: int, ridge: float, way: Way) -> int:
    """Bytes that autograd keeps for the backward of one call, each storage counted once, the input left out."""
    kept: dict[int, int] = {}
    leaf = a.detach().clone().requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() != leaf.untyped_storage().data_ptr():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run(leaf, method, steps, ridge, way)
    del result  # only now: a freed block's address could be taken again
    return sum(kept.values())


def run(a: Tensor, method: str, steps: int, ridge: float, way: Way) -> Tensor:
    """V after that many steps: by the op; by its steps, with autograd through them; or in the dtype of `a`.

    The first two compute half precision in float32, so that they can be compared.
    """
    if way == "op":
        return op.pseudo_inverse(a, method=method, iterations=steps, ridge=ridge)
    course = op.iterates(widened(a) if way == "unrolled" else a, method=method, ridge=ridge)
    return next(islice(course, steps, None))


def _unrolled(truth: Truth, method: str, dtype: torch.dtype, steps: int, cotangent: Tensor) -> Tensor:
    leaf = truth.a.to(dtype).requires_grad_()
    v = run(leaf, method, steps, truth.ridge, "in_dtype")
    (gradient,) = torch.autograd.grad(v, leaf, cotangent.to(dtype))
    return gradient.double()


def _implicit(v: Tensor, cotangent: Tensor) -> Tensor:
    return -(v.mT @ cotangent @ v.mT)


def _error(gradient: Tensor, exact: Tensor) -> Tensor:
    return (gradient - exact).norm(dim=(-2, -1)) / exact.norm(dim=(-2, -1))


def _cosine(gradient: Tensor, other: Tensor) -> Tensor:
    product = (gradient * other).sum((-2, -1))
    return product / (gradient.norm(dim=(-2, -1)) * other.norm(dim=(-2, -1)))
