"""pseudo_inverse against torch's own inverse, its reference, and what is known of each iteration."""

from __future__ import annotations

import itertools
import math
from itertools import islice

import helpers
import pytest
import torch
from torch import Tensor

from softbench.case import Shape
from softbench.errors import Unsupported, UsageError
from softbench.ops.gaussian_attention import gaussian_kernel
from softbench.ops.pseudo_inverse import (
    LEAKING,
    MAX_NEWTON_RIDGE,
    METHODS,
    flops,
    iterates,
    pseudo_inverse,
    residual,
    usual_steps,
)

M = 25
ONE = torch.eye(M, dtype=torch.float64)
PER_MATRIX = [method for method in METHODS if method not in LEAKING]
ITERATIVE = [method for method in METHODS if METHODS[method].products]
IMPLICIT = [method for method in METHODS if METHODS[method].implicit]


def ridge_of(method: str) -> float:
    return min(0.01, METHODS[method].max_ridge)


def landmarks(scale: float, kind: str = "iid") -> Tensor:
    """Gaussian kernels [2, 2, M, M] of tokens; the larger the scale, the nearer to the identity."""
    x, _, _ = helpers.inputs(Shape(2, 2, 1, M, 8), kind, scale=scale)
    return gaussian_kernel(x)


def smooth() -> Tensor:
    """The kernel of tokens along a smooth curve: as of a smooth image, near to low rank."""
    t = torch.linspace(0, 1, M, dtype=torch.float64)
    return gaussian_kernel(torch.stack([t, t.square(), (3 * t).sin() / 3], -1)[None, None])


def ones(size: int = M) -> Tensor:
    """The kernel of a blank image."""
    return torch.ones(1, 1, size, size, dtype=torch.float64)


def softmax_matrix() -> Tensor:
    """What Nystromformer inverts: not symmetric, rows sum to 1."""
    q, k, _ = helpers.inputs(Shape(2, 2, 1, M, 8), "structured")
    return (q @ k.mT / 2 + 6 * torch.eye(M, dtype=q.dtype)).softmax(-1)


def worst(a: Tensor, v: Tensor, ridge: float) -> float:
    return float(residual(a, v, ridge).max())


def with_spectrum(values: Tensor) -> Tensor:
    """A symmetric matrix [1, m, m] with these eigenvalues."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
    a = (basis * values) @ basis.mT
    return ((a + a.mT) / 2)[None]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("iterations", [1, 6, 20])
@pytest.mark.parametrize("a", [landmarks(0.3), landmarks(1.0), landmarks(1.0, "structured"), smooth()],
                         ids=["close", "spread", "structured", "smooth"])
def test_values_and_gradients_match_the_reference(method: str, iterations: int, a: Tensor) -> None:
    def call(impl: str) -> object:
        return lambda t: pseudo_inverse(t, method=method, iterations=iterations, ridge=ridge_of(method), impl=impl)

    helpers.assert_agrees(call("eager"), call("reference"), [a], bound=1e-7)


@pytest.mark.parametrize("method", ["newton", "hyperpower"])
def test_without_a_ridge_it_matches_the_reference_too(method: str) -> None:
    helpers.assert_agrees(lambda t: pseudo_inverse(t, method=method), lambda t: pseudo_inverse(
        t, method=method, impl="reference"), [landmarks(0.5)], bound=1e-7)


@pytest.mark.parametrize("ridge", [0.0, 0.01, MAX_NEWTON_RIDGE])
@pytest.mark.parametrize("method", PER_MATRIX)
def test_inverts_well_spread_kernels(method: str, ridge: float) -> None:
    for a in (landmarks(1.0), landmarks(30.0)):
        assert worst(a, pseudo_inverse(a, method=method, iterations=20, ridge=ridge), ridge) < 1e-12


def test_newton_squares_its_residual() -> None:
    for method in ("newton", "newton_ci"):
        a = landmarks(0.5).flatten(0, 1)
        residuals = [ONE - a @ v for v in islice(iterates(a, method=method), 8)]
        for before, after in itertools.pairwise(residuals):
            assert helpers.relative(after, before @ before) < 1e-10


def test_hyperpower_cubes_its_residual() -> None:
    a = landmarks(0.5).flatten(0, 1)
    residuals = [ONE - a @ v for v in islice(iterates(a, method="hyperpower"), 5)]
    for before, after in itertools.pairwise(residuals):
        assert helpers.relative(after, before @ before @ before) < 1e-10


@pytest.mark.parametrize("a", [landmarks(0.3), landmarks(1.0), smooth(), ones()],
                         ids=["close", "spread", "smooth", "blank"])
@pytest.mark.parametrize("ridge", [0.01, 0.2])
def test_bound_of_scaled_newton_holds_at_each_step(a: Tensor, ridge: float) -> None:
    """The spectrum of V P stays in [1 - d, 1 + d], where d <- d^2 / (2 - d^2), and is not far inside."""
    a = a.flatten(0, 1)
    values = torch.linalg.eigvalsh(a).clamp_min(0) + ridge
    high = a.sum(-1).amax(-1) + ridge
    d = (high - ridge) / (high + ridge)
    for v in islice(iterates(a, method="scaled_newton", ridge=ridge), 7):
        p = a + ridge * ONE
        spectrum = torch.linalg.eigvals(v @ p).real
        assert bool(((spectrum - 1).abs().amax(-1) <= d + 1e-9).all())
        if torch.allclose(values[:, 0], torch.tensor(ridge, dtype=a.dtype), rtol=1e-6):  # then the lower end is met
            assert torch.allclose(spectrum.amin(-1), 1 - d, rtol=1e-5)
        d = d.square() / (2 - d.square())


@pytest.mark.parametrize("condition", [2, 10, 100, 1000, 4900])
def test_scaled_newton_reaches_1e_12_in_10_steps_with_a_ridge_of_1_percent(condition: float) -> None:
    """Exact arithmetic, on the eigenvalues of P, for 49 x 49 kernels: ||A||_1 <= 49 whatever the condition number."""
    smallest = max(0.01, 49.01 / condition)
    values = torch.logspace(math.log10(smallest), math.log10(smallest * condition), 49, dtype=torch.float64)
    high, x = values.max(), values * 2 / (values.max() + 0.01)
    d = (high - 0.01) / (high + 0.01)
    for _ in range(10):
        d = d.square() / (2 - d.square())
        x = (1 + d) * x * (2 - x)
    assert float((1 - x).abs().max()) < 1e-12


def test_scaled_newton_converges_in_10_steps_where_newton_needs_27() -> None:
    for a in (ones(49), smooth(), landmarks(0.1), landmarks(1.0)):
        exact = torch.linalg.inv(a + 0.01 * torch.eye(a.shape[-1], dtype=a.dtype))
        assert helpers.relative(pseudo_inverse(a, method="scaled_newton", ridge=0.01), exact) < 1e-12
        assert helpers.relative(pseudo_inverse(a.float(), method="scaled_newton", ridge=0.01), exact) < 1e-4
    steps = [worst(ones(49), v, 0.01) < 1e-3 for v in islice(iterates(ones(49)[0], method="newton", ridge=0.01), 30)]
    assert steps.index(True) == 27


@pytest.mark.parametrize("ridge", [0.0, 1e-9])
def test_scaled_newton_with_no_ridge_to_speak_of_is_scaled_for_condition_1000000(ridge: float) -> None:
    """14 steps then suffice up to there; smaller eigenvalues come later, and nothing diverges."""
    for condition, steps in ((1, 14), (100, 14), (3000, 14), (1e5, 14), (2e6, 18)):
        a = with_spectrum(torch.logspace(-math.log10(condition), 0, M, dtype=torch.float64))
        assert worst(a, pseudo_inverse(a, method="scaled_newton", iterations=steps, ridge=ridge), ridge) < 1e-5
    for a in (ones()[0], smooth()[0]):
        spectrum = torch.linalg.eigvals(pseudo_inverse(a, method="scaled_newton", iterations=20) @ a).real
        assert -1e-4 < float(spectrum.min()) <= float(spectrum.max()) < 1 + 1e-4


def test_scaled_newton_takes_the_ridge_for_its_bound_with_many_landmarks_too() -> None:
    """400 alike landmarks have condition 40,001."""
    a = ones(400)[0]
    exact = (torch.eye(400, dtype=a.dtype) - a / 400.01) / 0.01
    assert worst(a, pseudo_inverse(a, method="scaled_newton", ridge=0.01, iterations=10), 0.01) < 1e-4
    assert helpers.relative(pseudo_inverse(a, method="scaled_newton", ridge=0.01), exact) < 1e-10


@pytest.mark.parametrize(("size", "ridge", "steps"), [(49, 0.01, 10), (400, 0.01, 12), (49, 0.0, 14), (49, 1e-9, 14),
                                                      (1, 1.0, 5)])
def test_usual_steps_of_scaled_newton_are_as_many_as_its_bounds_ask_for(size: int, ridge: float, steps: int) -> None:
    """The two ends of the bounds by the formula of a step, 2 x - x^2 times s."""
    assert usual_steps("scaled_newton", size, ridge) == steps
    high = size + ridge
    low = max(ridge, high / 1e6)
    d = (high - low) / (high + low)
    for step in range(steps + 1):
        assert (d <= 1e-12) == (step == steps)
        d = d**2 / (2 - d**2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ridge", [0.0, 0.01])
def test_scaled_newton_does_not_scale_for_what_rounding_hides(dtype: torch.dtype, ridge: float) -> None:
    for a in (ONE[None], landmarks(0.5).flatten(0, 1)):
        v = next(islice(iterates(a.to(dtype), method="scaled_newton", ridge=ridge), 20, None))
        assert worst(a.to(dtype), v.double(), ridge) < 60 * torch.finfo(dtype).eps


def test_newton_starts_from_the_norm_of_each_matrix() -> None:
    a = landmarks(0.5)
    p = a + 0.01 * ONE
    alpha = 1.8 / a.sum(-1).amax(-1)[..., None, None] ** 2
    first = 2 * alpha * p - alpha**2 * p @ p @ p
    assert helpers.relative(pseudo_inverse(a, method="newton", iterations=1, ridge=0.01), first) < 1e-13


def test_newton_leaves_smooth_kernels_unconverged_behind_a_small_ava_minus_a() -> None:
    a = smooth()
    v = pseudo_inverse(a, method="newton", iterations=20, ridge=0.01)
    assert worst(a, v, 0.01) > 0.5
    assert helpers.relative(a @ v @ a, a) < 1e-2
    assert worst(a, pseudo_inverse(a, method="newton", iterations=40, ridge=0.01), 0.01) < 1e-9
    assert worst(a, pseudo_inverse(a, method="cholesky", ridge=0.01), 0.01) < 1e-12


@pytest.mark.parametrize("method", IMPLICIT)
def test_implicit_gradient_is_that_of_the_inverse(method: str) -> None:
    def exact(s: Tensor) -> Tensor:
        return torch.linalg.inv(s @ s.mT + 0.01 * torch.eye(M, dtype=s.dtype))

    roots = torch.linalg.cholesky(landmarks(1.0))
    helpers.assert_agrees(lambda s: pseudo_inverse(s @ s.mT, method=method, ridge=0.01, iterations=20), exact, [roots])


@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_finite_differences_where_the_inverse_has_converged(method: str) -> None:
    x, _, _ = helpers.inputs(Shape(1, 1, 1, 4, 3))

    def call(x: Tensor) -> Tensor:
        return pseudo_inverse(gaussian_kernel(x, impl="reference"), method=method, iterations=30,
                              ridge=ridge_of(method))

    torch.autograd.gradcheck(call, (x.requires_grad_(),), atol=1e-6)


@pytest.mark.parametrize("method", ["nystromformer", "nystromformer_batch", "newton_batch"])
def test_gradient_through_the_steps_is_that_of_few_steps_too(method: str) -> None:
    x, _, _ = helpers.inputs(Shape(1, 1, 1, 4, 3), scale=0.5)

    def call(x: Tensor) -> Tensor:
        return pseudo_inverse(gaussian_kernel(x, impl="reference"), method=method, iterations=2)

    torch.autograd.gradcheck(call, (x.requires_grad_(),))


@pytest.mark.parametrize("method", PER_MATRIX)
def test_each_matrix_is_inverted_by_itself(method: str) -> None:
    stack = torch.cat([landmarks(1.0), landmarks(0.3), ones().expand(1, 2, M, M)])
    together = pseudo_inverse(stack, method=method, ridge=0.01)
    for b in range(len(stack)):
        for h in range(2):
            assert helpers.relative(together[b, h], pseudo_inverse(stack[b, h], method=method, ridge=0.01)) < 1e-9


@pytest.mark.parametrize("method", LEAKING)
def test_starts_for_the_batch_leak(method: str) -> None:
    """Why no attention uses them: a blank image beside it changes the inverse of a matrix."""
    alone = pseudo_inverse(landmarks(0.5)[:1], method=method)
    joined = pseudo_inverse(torch.cat([landmarks(0.5)[:1], ones().expand(1, 2, M, M)]), method=method)
    assert helpers.relative(joined[:1], alone) > 0.03
    alike = torch.cat([landmarks(0.5)[:1]] * 2)
    assert helpers.relative(pseudo_inverse(alike, method=method)[:1], alone) < 1e-12


def test_official_start_gives_zero_next_to_the_identity_and_the_others_do_not() -> None:
    one = torch.eye(M)[None]
    assert float(pseudo_inverse(one, method="newton_batch").norm()) == 0
    leaf = (one * (1 - 1e-6) + 1e-6).requires_grad_()
    (steep,) = torch.autograd.grad(pseudo_inverse(leaf, method="newton_batch").sum(), leaf)
    assert float(steep.norm()) > 1e5
    for off in (0.0, 1e-6, 1e-4):
        a = one * (1 - off) + off
        for method in PER_MATRIX:
            v = pseudo_inverse(a.clone().requires_grad_(), method=method, iterations=20)
            assert helpers.relative(v, torch.linalg.inv(a.double())) < 1e-5


def test_official_start_is_halved_and_does_the_work_of_fewer_steps() -> None:
    """8 halvings put it 230 times below newton's start."""
    a = ones(49)[0] * 0.9 + 0.1 * torch.eye(49, dtype=torch.float64)
    start = next(iterates(a, method="newton_batch"))
    alpha = float((start / a).max())
    halvings = math.log2(2 / float(a.sum(-1).max()) ** 2 / alpha)
    assert halvings == pytest.approx(round(halvings), abs=1e-9)
    assert 1 <= halvings <= 10
    column_sum = (torch.eye(49, dtype=a.dtype) - 2 * alpha * a @ a).abs().sum(1).max()
    assert float(column_sum) > 1.01 or halvings == 10


def test_cholesky_and_eigh_mark_only_what_they_cannot_factor() -> None:
    good = landmarks(1.0)[0, 0]
    broken = good.clone()
    broken[0, 0] = torch.nan
    for method, bad in (("cholesky", torch.ones_like(good)), ("cholesky", broken), ("eigh", broken)):
        v = pseudo_inverse(torch.stack([good, bad]), method=method)
        assert helpers.relative(v[0], torch.linalg.inv(good)) < 1e-10
        assert v[1].isnan().all()


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e300, 0.0])
@pytest.mark.parametrize("method", PER_MATRIX)
def test_hostile_matrices_neither_raise_nor_reach_their_neighbours(method: str, poison: float) -> None:
    a = landmarks(1.0)
    a[0, 0] = poison
    v = pseudo_inverse(a, method=method, ridge=0.01)
    clean = pseudo_inverse(landmarks(1.0), method=method, ridge=0.01)
    assert helpers.relative(v[0, 1], clean[0, 1]) < 1e-9
    assert helpers.relative(v[1], clean[1]) < 1e-9


def test_eigh_gives_the_pseudo_inverse_of_a_singular_matrix() -> None:
    values = torch.tensor([3.0, 1.0, 0.5, 0, 0, 0], dtype=torch.float64)
    a = with_spectrum(values)
    v = pseudo_inverse(a, method="eigh")
    assert helpers.relative(v, torch.linalg.pinv(a, hermitian=True, rtol=1e-12)) < 1e-12
    assert helpers.relative(a @ v @ a, a) < 1e-12
    assert helpers.relative(v @ a @ v, v) < 1e-12


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


@pytest.mark.parametrize("method", ITERATIVE)
def test_iterates_lead_to_the_inverse_in_the_dtype_given(method: str) -> None:
    a = landmarks(1.0).flatten(0, 1)
    ridge = ridge_of(method)
    for steps in (0, 1, 7):
        v = pseudo_inverse(a, method=method, iterations=steps, ridge=ridge)
        assert torch.equal(next(islice(iterates(a, method=method, ridge=ridge), steps, None)), v)
    for dtype in (torch.float16, torch.bfloat16):
        v = next(islice(iterates(a.to(dtype), method=method, ridge=ridge), 12, None))
        assert v.dtype == dtype
        assert worst(a.to(dtype), v.double(), ridge) < 60 * torch.finfo(dtype).eps


def test_usual_number_of_steps() -> None:
    a = landmarks(0.5)
    for method in ITERATIVE:
        usual = usual_steps(method, M, 0.0)
        assert torch.equal(pseudo_inverse(a, method=method), pseudo_inverse(a, method=method, iterations=usual))
    assert usual_steps("newton", M, 0.01) == 20
    assert usual_steps("nystromformer", M, 0.01) == 6
    assert usual_steps("cholesky", M, 0.01) == 0


@pytest.mark.parametrize("method", IMPLICIT)
def test_second_backward_is_refused(method: str) -> None:
    a = landmarks(1.0).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(pseudo_inverse(a, method=method).sum(), a, create_graph=True)


@pytest.mark.parametrize("method", METHODS)
def test_reference_has_second_derivatives(method: str) -> None:
    def inverse(x: Tensor) -> Tensor:
        return pseudo_inverse((x + x.mT) / 2, method=method, iterations=60, impl="reference")

    a = landmarks(1.0, "structured")[0, :1, :4, :4].clone().requires_grad_()
    torch.autograd.gradgradcheck(inverse, a, torch.ones_like(a))


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ({"method": "svd"}, UsageError, "must be one of cholesky, scaled_newton, newton"),
    ({"method": "newton", "ridge": 0.1}, UsageError, "use at most 0.05, or cholesky"),
    ({"method": "hyperpower", "ridge": 0.1}, UsageError, "use at most 0.05, or cholesky"),
    ({"method": "newton", "ridge": -0.1}, UsageError, "newton: the ridge must be at least 0"),
    ({"method": "newton_batch", "ridge": 0.1}, UsageError, "use at most 0, or cholesky"),
    ({"impl": "cuda"}, Unsupported, "no implementation 'cuda'; it has triton, eager, reference"),
])
def test_bad_request_is_told(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pseudo_inverse(torch.eye(3)[None], **arguments)


def test_direct_methods_have_no_iterates() -> None:
    with pytest.raises(UsageError, match="cholesky has no steps; these have: newton"):
        iterates(torch.eye(3)[None], method="cholesky")


def test_flops_are_known() -> None:
    assert flops(10, method="newton", iterations=20) == 20 * 2 * 2000
    assert flops(10, method="newton") == flops(10, method="newton", iterations=20)
    assert flops(10, method="scaled_newton") == 14 * 2 * 2000
    assert flops(49, method="scaled_newton", ridge=0.01) == 10 * 2 * 2 * 49**3
    assert flops(10, method="hyperpower", iterations=3) == 3 * 3 * 2000
    assert flops(10, method="nystromformer", iterations=6) == 6 * 4 * 2000
    assert flops(10, method="cholesky", iterations=20) == 1000
    assert flops(10, method="eigh") == 11_000
