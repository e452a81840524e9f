"""pseudo_inverse against torch's own inverse, its reference, and what is known of each iteration."""

from __future__ import annotations

import itertools

import helpers
import pytest
import torch
from torch import Tensor

from softbench.case import Shape
from softbench.errors import Unsupported, UsageError
from softbench.ops.gaussian_attention import gaussian_kernel
from softbench.ops.pseudo_inverse import MAX_NEWTON_RIDGE, METHODS, flops, pseudo_inverse

M = 25


def landmarks(scale: float, kind: str = "iid") -> Tensor:
    """Gaussian kernels [2, 2, M, M] of tokens; the larger the scale, the nearer to the identity."""
    x, _, _ = helpers.inputs(Shape(2, 2, 1, M, 8), kind, scale=scale)
    return gaussian_kernel(x)


def smooth() -> Tensor:
    """The kernel of tokens along a smooth curve: as of a smooth image, near to low rank."""
    t = torch.linspace(0, 1, M, dtype=torch.float64)
    return gaussian_kernel(torch.stack([t, t.square(), (3 * t).sin() / 3], -1)[None, None])


def softmax_matrix() -> Tensor:
    """What Nystromformer inverts: not symmetric, rows sum to 1."""
    q, k, _ = helpers.inputs(Shape(2, 2, 1, M, 8), "structured")
    return (q @ k.mT / 2 + 6 * torch.eye(M, dtype=q.dtype)).softmax(-1)


def residual(a: Tensor, v: Tensor, ridge: float) -> float:
    """||I - P V|| / sqrt(m), the largest over the matrices."""
    one = torch.eye(a.shape[-1], dtype=a.dtype)
    return float((one - (a + ridge * one) @ v).norm(dim=(-2, -1)).max()) / a.shape[-1] ** 0.5


@pytest.mark.parametrize(("method", "ridge"), [("newton", 0.0), ("newton", 0.01), ("cholesky", 0.01),
                                               ("nystromformer", 0.0)])
@pytest.mark.parametrize("iterations", [6, 20])
@pytest.mark.parametrize("a", [landmarks(0.3), landmarks(1.0), landmarks(1.0, "structured"), smooth()],
                         ids=["close", "spread", "structured", "smooth"])
def test_values_and_gradients_match_the_reference(method: str, ridge: float, iterations: int, a: Tensor) -> None:
    def call(impl: str) -> object:
        return lambda t: pseudo_inverse(t, method=method, iterations=iterations, ridge=ridge, impl=impl)

    helpers.assert_agrees(call("eager"), call("reference"), [a], bound=1e-7)


@pytest.mark.parametrize("ridge", [0.0, 0.01, MAX_NEWTON_RIDGE])
@pytest.mark.parametrize("method", ["newton", "cholesky"])
def test_inverts_well_spread_kernels(method: str, ridge: float) -> None:
    for a in (landmarks(1.0), landmarks(30.0)):
        assert residual(a, pseudo_inverse(a, method=method, ridge=ridge), ridge) < 1e-12


def test_newton_squares_its_residual() -> None:
    a = landmarks(0.5)
    one = torch.eye(M, dtype=a.dtype)
    residuals = [one - a @ pseudo_inverse(a, method="newton", iterations=i) for i in range(1, 6)]
    for before, after in itertools.pairwise(residuals):
        assert helpers.relative(after, before @ before) < 1e-10


def test_newton_starts_from_the_norm_of_each_matrix() -> None:
    a = landmarks(0.5)
    one = torch.eye(M, dtype=a.dtype)
    p = a + 0.01 * one
    alpha = 1.8 / a.sum(-1).amax(-1)[..., None, None] ** 2
    first = 2 * alpha * p - alpha**2 * p @ p @ p
    assert helpers.relative(pseudo_inverse(a, iterations=1, ridge=0.01), first) < 1e-13


def test_newton_leaves_smooth_kernels_unconverged_behind_a_small_ava_minus_a() -> None:
    a = smooth()
    v = pseudo_inverse(a, method="newton", iterations=20, ridge=0.01)
    assert residual(a, v, 0.01) > 0.5
    assert helpers.relative(a @ v @ a, a) < 1e-2
    assert residual(a, pseudo_inverse(a, method="newton", iterations=40, ridge=0.01), 0.01) < 1e-9
    assert residual(a, pseudo_inverse(a, method="cholesky", ridge=0.01), 0.01) < 1e-12


@pytest.mark.parametrize("method", ["newton", "cholesky"])
def test_implicit_gradient_is_that_of_the_inverse(method: str) -> None:
    def exact(s: Tensor) -> Tensor:
        return torch.linalg.inv(s @ s.mT + 0.01 * torch.eye(M, dtype=s.dtype))

    roots = torch.linalg.cholesky(landmarks(1.0))
    helpers.assert_agrees(lambda s: pseudo_inverse(s @ s.mT, method=method, ridge=0.01), exact, [roots])


@pytest.mark.parametrize("method", METHODS)
def test_each_matrix_is_inverted_by_itself(method: str) -> None:
    ridge = 0.0 if method == "nystromformer" else 0.01
    stack = torch.cat([landmarks(1.0), landmarks(0.3), torch.ones(1, 2, M, M, dtype=torch.float64)])
    together = pseudo_inverse(stack, method=method, ridge=ridge)
    for b in range(len(stack)):
        for h in range(2):
            assert helpers.relative(together[b, h], pseudo_inverse(stack[b, h], method=method, ridge=ridge)) < 1e-9


def test_kernel_next_to_the_identity_is_inverted() -> None:
    one = torch.eye(M, dtype=torch.float32)
    for off in (0.0, 1e-6, 1e-4):
        v = pseudo_inverse((one * (1 - off) + off).requires_grad_(), method="newton", ridge=0.0)
        assert helpers.relative(v, torch.linalg.inv((one * (1 - off) + off).double())) < 1e-6


def test_cholesky_marks_only_what_it_cannot_factor() -> None:
    good = landmarks(1.0)[0, 0]
    v = pseudo_inverse(torch.stack([good, torch.ones_like(good)]), method="cholesky", ridge=0.0)
    assert helpers.relative(v[0], torch.linalg.inv(good)) < 1e-10
    assert v[1].isnan().all()


def test_nystromformer_iteration_converges_to_the_inverse_of_an_asymmetric_matrix() -> None:
    a = softmax_matrix()
    assert helpers.relative(a.mT, a) > 0.01
    exact = torch.linalg.pinv(a)
    errors = [helpers.relative(pseudo_inverse(a, method="nystromformer", iterations=i), exact) for i in (2, 6, 20)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_computed_in_float32(method: str, dtype: torch.dtype) -> None:
    a = landmarks(1.0).to(dtype)
    v = pseudo_inverse(a, method=method)
    assert v.dtype == torch.float32
    assert torch.equal(v, pseudo_inverse(a.float(), method=method))


def test_second_backward_is_refused() -> None:
    a = landmarks(1.0).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(pseudo_inverse(a).sum(), a, create_graph=True)


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"method": "svd"}, UsageError, "must be one of newton, cholesky, nystromformer"),
    ({"method": "newton", "ridge": 0.1}, UsageError, "use at most 0.05, or cholesky"),
    ({"method": "newton", "ridge": -0.1}, UsageError, "use at most 0.05"),
    ({"method": "nystromformer", "ridge": 0.1}, UsageError, "takes no ridge"),
    ({"impl": "triton"}, Unsupported, "no implementation 'triton'"),
])
def test_bad_request_is_told(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pseudo_inverse(torch.eye(3)[None], **arguments)


def test_flops_are_known() -> None:
    assert flops(10, method="newton", iterations=20) == 20 * 2 * 2000
    assert flops(10, method="nystromformer", iterations=6) == 6 * 4 * 2000
    assert flops(10, method="cholesky", iterations=20) == 1000
