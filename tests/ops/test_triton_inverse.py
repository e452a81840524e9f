"""The Triton kernels of the pseudo-inverse, in Triton's interpreter, against plain torch and float64."""

from __future__ import annotations

import contract
import helpers
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from softbench.case import Shape
from softbench.errors import Unsupported
from softbench.ops import dispatch
from softbench.ops.gaussian_attention import gaussian_kernel
from softbench.ops.pseudo_inverse import flops, pseudo_inverse, residual

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not dispatch.interpreted(), reason="a GPU is here: see tests/gpu")

METHODS = ["cholesky", "scaled_newton", "newton"]


def kernels(size: int, scale: float, groups: tuple[int, int] = (1, 1)) -> Tensor:
    """Gaussian kernels between `size` landmarks, [*groups, m, m]; the smaller the scale, the more alike they are."""
    x, _, _ = helpers.inputs(Shape(*groups, 1, size, 16), scale=scale, dtype=torch.float32)
    return gaussian_kernel(x)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size", "scale"), [(1, 1.0), (7, 0.05), (49, 0.05), (49, 0.3), (50, 1.0), (80, 30.0)])
def test_is_as_right_as_plain_torch(method: str, size: int, scale: float) -> None:
    """By the residual: the elimination in place of a factor loses no more than twice what Cholesky's does."""
    a = kernels(size, scale)
    ours, plain = (pseudo_inverse(a, method=method, ridge=0.01, impl=impl) for impl in ("triton", "eager"))
    mine, theirs = (float(residual(a.double(), v.double(), 0.01).max()) for v in (ours, plain))
    assert mine <= 2.5 * theirs + 1e-6
    if method != "newton":  # whose usual steps do not reach the inverse
        exact = torch.linalg.inv(a.double() + 0.01 * torch.eye(size, dtype=torch.float64))
        assert helpers.relative(ours, exact) < 0.05


@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_implicit(method: str) -> None:
    a = kernels(20, 0.6, (1, 2)).requires_grad_()
    results = []
    for impl in ("triton", "eager"):
        v = pseudo_inverse(a, method=method, ridge=0.01, impl=impl)
        results.append([v, *helpers.gradients(v, [a])])
    for mine, theirs in zip(*results, strict=True):
        assert helpers.relative(mine, theirs) < 2e-4


def test_matrix_that_is_not_positive_is_nan_alone() -> None:
    a = kernels(17, 1.0, (1, 3))
    a[0, 1, 4, 4] = -1
    v = pseudo_inverse(a, ridge=0.01, impl="triton")
    assert v[0, 1].isnan().all()
    assert torch.equal(v[0, [0, 2]].isfinite(), torch.ones(2, 17, 17, dtype=torch.bool))


@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_is_the_same_in_any_batch_and_on_poisoned_memory(method: str) -> None:
    a = kernels(9, 0.5, (3, 1))
    alone = pseudo_inverse(a[1], method=method, iterations=6, ridge=0.01, impl="triton")
    room = torch.full((3, 1, 11, 12), torch.nan)
    room[:, :, 1:-1, 2:-1] = a
    with contract._poisoned():
        together = pseudo_inverse(room[:, :, 1:-1, 2:-1], method=method, iterations=6, ridge=0.01, impl="triton")
    assert torch.equal(together[1], alone)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("method", ["scaled_newton", "newton"])
def test_takes_the_steps_that_are_asked_for(method: str, steps: int) -> None:
    a = kernels(20, 0.6)
    ours, plain = (pseudo_inverse(a, method=method, iterations=steps, ridge=0.01, impl=impl)
                   for impl in ("triton", "reference"))
    assert helpers.relative(ours, plain) < 1e-5


def test_half_precision_is_widened() -> None:
    a = kernels(9, 1.0)
    assert torch.equal(pseudo_inverse(a.half(), ridge=0.01, impl="triton"),
                       pseudo_inverse(a.half().float(), ridge=0.01, impl="triton"))


def test_what_the_kernels_cannot_take_is_told() -> None:
    a = kernels(9, 1.0)
    for matrices, method, message in ((a, "eigh", "has cholesky, scaled_newton, newton, not eigh"),
                                      (kernels(129, 1.0), "cholesky", "128 rows at most, not 129"),
                                      (a.double(), "cholesky", "float64 is none of")):
        with pytest.raises(Unsupported, match=message):
            pseudo_inverse(matrices, method=method, impl="triton")


def test_second_backward_is_refused() -> None:
    a = kernels(5, 1.0).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(pseudo_inverse(a, impl="triton").sum(), a, create_graph=True)


def test_compile_and_counters_see_one_operator() -> None:
    a = kernels(9, 1.0)
    compiled = torch.compile(lambda a: pseudo_inverse(a, ridge=0.01, impl="triton"), fullgraph=True,
                             backend="aot_eager")
    assert torch.equal(compiled(a), pseudo_inverse(a, ridge=0.01, impl="triton"))
    for method in METHODS:
        with FlopCounterMode(display=False) as counter:
            pseudo_inverse(a, method=method, iterations=4, ridge=0.01, impl="triton")
        assert counter.get_total_flops() == flops(9, method=method, iterations=4)
