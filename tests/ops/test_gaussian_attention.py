"""gaussian_attention and gaussian_kernel against scikit-learn, the reference, and what must hold exactly."""

from __future__ import annotations

import helpers
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from softbench.case import Shape
from softbench.errors import Unsupported
from softbench.ops.gaussian_attention import eager, gaussian_attention, gaussian_kernel

KINDS = [("iid", 1.0), ("structured", 1.0), ("structured", 5.0)]


def sides(kind: str, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> helpers.Inputs:
    """x [2, 3, 37, 5], k [2, 3, 23, 5], v [2, 3, 23, 4]: three different odd sizes."""
    x, _, _ = helpers.inputs(Shape(2, 3, 1, 37, 5), kind, scale=scale, dtype=dtype)
    _, k, v = helpers.inputs(Shape(2, 3, 1, 23, 5), kind, scale=scale, value_dim=4, dtype=dtype)
    return x, k, v


@pytest.mark.parametrize("impl", ["eager", "reference"])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_matches_scikit_learn(impl: str, kind: str, scale: float) -> None:
    x, k, v = sides(kind, scale)
    scores = torch.stack([torch.stack([torch.from_numpy(rbf_kernel(x[b, h], k[b, h], gamma=0.5)) for h in range(3)])
                          for b in range(2)])
    assert helpers.relative(gaussian_kernel(x, k, impl=impl), scores) < 1e-12
    assert helpers.relative(gaussian_attention(x, k, v, impl=impl), scores @ v) < 1e-12


@pytest.mark.parametrize("tile", [1 << 22, 40])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_values_and_gradients_match_the_reference(kind: str, scale: float, tile: int,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "TILE", tile)
    monkeypatch.setattr(eager, "_SIDE", 7 if tile < 100 else 2048)
    x, k, v = sides(kind, scale)
    helpers.assert_agrees(lambda *t: gaussian_attention(*t, impl="eager"),
                          lambda *t: gaussian_attention(*t, impl="reference"), (x, k, v))
    helpers.assert_agrees(lambda *t: gaussian_kernel(*t, impl="eager"),
                          lambda *t: gaussian_kernel(*t, impl="reference"), (x, k))
    helpers.assert_agrees(lambda t: gaussian_kernel(t, impl="eager"),
                          lambda t: gaussian_kernel(t, impl="reference"), (x,))


def test_gradients_match_finite_differences() -> None:
    x, k, v = (t[:1, :1, :4].requires_grad_() for t in sides("structured"))
    torch.autograd.gradcheck(gaussian_attention, (x, k, v))
    torch.autograd.gradcheck(gaussian_kernel, (x, k))


@pytest.mark.parametrize("wanted", range(3))
def test_one_gradient_alone_is_the_same(wanted: int) -> None:
    tensors = [t.clone().requires_grad_() for t in sides("structured")]
    together = helpers.gradients(gaussian_attention(*tensors), tensors)
    alone = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(tensors)]
    (single,) = helpers.gradients(gaussian_attention(*alone), alone[wanted:wanted + 1])
    assert torch.equal(single, together[wanted])


def test_gradient_by_values_is_the_call_with_sides_swapped() -> None:
    x, k, v = sides("structured")
    v.requires_grad_()
    dy = torch.randn(2, 3, 37, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (dv,) = torch.autograd.grad(gaussian_attention(x, k, v), v, dy)
    assert helpers.relative(dv, gaussian_attention(k, x, dy)) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_token_has_score_one_with_itself(dtype: torch.dtype, scale: float) -> None:
    x, _, _ = sides("iid", scale, dtype)
    scores = gaussian_kernel(x)
    assert (scores.diagonal(dim1=2, dim2=3) == 1).all()
    assert scores.max() == 1
    assert helpers.relative(scores, scores.mT) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_score_exceeds_one(dtype: torch.dtype) -> None:
    x, _, _ = sides("iid", 10.0, dtype)
    scores = gaussian_kernel(x, x.clone())  # distances of 0 that are rounded, to either side
    assert scores.max() == 1
    assert helpers.relative(scores, gaussian_kernel(x)) < 1e-3


def test_shared_offset_costs_no_digits() -> None:
    x, k, v = sides("structured", dtype=torch.float32)
    shifted = x + 4096, k + 4096
    truth = gaussian_attention(*(t.double() for t in (*shifted, v)), impl="reference")
    assert helpers.relative(gaussian_attention(*shifted, v), truth) < 1e-5
    assert helpers.relative(gaussian_kernel(shifted[0]), gaussian_kernel(shifted[0].double())) < 1e-5


def test_coincident_tokens_have_finite_gradients() -> None:
    x = torch.ones(1, 1, 6, 3, dtype=torch.float32, requires_grad=True)
    v = torch.arange(6.0).view(1, 1, 6, 1).requires_grad_()
    dx, dv = torch.autograd.grad(gaussian_attention(x, x, v).square().sum(), (x, v))
    assert torch.equal(dx, torch.zeros_like(x))
    assert torch.allclose(dv, torch.full_like(v, 2 * 6 * 15.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_only_rounded_at_the_end(dtype: torch.dtype) -> None:
    x, k, v = sides("structured", dtype=dtype)
    truth = gaussian_attention(x.double(), k.double(), v.double(), impl="reference")
    for impl in ("eager", "reference"):
        y = gaussian_attention(x, k, v, impl=impl)
        assert y.dtype == dtype
        assert helpers.relative(y, truth) < torch.finfo(dtype).eps
        assert gaussian_kernel(x, k, impl=impl).dtype == torch.float32


def test_second_backward_is_refused() -> None:
    x, k, v = (t.requires_grad_() for t in sides("iid"))
    for y in (gaussian_attention(x, k, v), gaussian_kernel(x, k)):
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(y.sum(), x, create_graph=True)


def test_no_tensor_grows_with_the_square_of_the_tokens() -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            tensors = out if isinstance(out, tuple | list) else [out]
            self.numel = max([self.numel, *(t.numel() for t in tensors if isinstance(t, Tensor))])
            return out

    x, k, v = (torch.randn(1, 1, 4096, 4, requires_grad=True) for _ in range(3))
    with Largest() as seen:
        gaussian_attention(x, k, v).sum().backward()
    assert seen.numel == eager.TILE < 4096**2


@pytest.mark.parametrize("empty", range(4))
def test_empty_inputs_give_empty_sums(empty: int) -> None:
    """No samples, no heads, no queries; and without keys each sum is 0."""
    b, h, n, m = (0 if i == empty else size for i, size in enumerate((2, 3, 5, 4)))
    x, k, v = (torch.ones(b, h, *size, requires_grad=True) for size in ((n, 3), (m, 3), (m, 2)))
    for impl in ("eager", "reference"):
        y = gaussian_attention(x, k, v, impl=impl)
        assert y.shape == (b, h, n, 2)
        assert not y.any()
        assert [g.shape for g in torch.autograd.grad(y.sum(), (x, k, v))] == [x.shape, k.shape, v.shape]


def test_unknown_implementation_is_told() -> None:
    with pytest.raises(Unsupported, match="no implementation 'cuda'; it has triton, eager, reference"):
        gaussian_attention(*sides("iid"), impl="cuda")
