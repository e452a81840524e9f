"""The check at run time: the residual, and what `watch` sees of the calls within it."""

from __future__ import annotations

import helpers
import pytest
import torch

from softbench.case import Shape
from softbench.errors import UsageError
from softbench.ops import pseudo_inverse as op
from softbench.ops.pseudo_inverse import pseudo_inverse, residual, watch


def blank(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(2, 3, 49, 49, dtype=dtype)


def test_residual_is_the_distance_from_the_identity_on_the_worse_side() -> None:
    a = torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)).expand(2, 3, 3).clone()
    v = torch.stack([torch.zeros(3, 3, dtype=a.dtype), torch.linalg.inv(a[1] + 0.5 * torch.eye(3))])
    assert residual(a, v, 0.5) == pytest.approx(torch.tensor([1.0, 0.0], dtype=a.dtype), abs=1e-14)
    off = v[1].clone()
    off[0, 2] = 1.0  # P V is off by p_0 = 1.5 there, and V P by p_2 = 4.5
    assert float(residual(a[1], off, 0.5)) == pytest.approx(4.5 / 3**0.5)
    assert float(residual(a[1], off.mT, 0.5)) == pytest.approx(4.5 / 3**0.5)


def test_watch_keeps_the_worst_of_its_calls() -> None:
    good = torch.eye(49).expand(1, 1, 49, 49)
    with watch() as seen:
        pseudo_inverse(good, method="newton")
        first = seen.worst
        pseudo_inverse(torch.cat([blank(), good.expand(1, 3, 49, 49)]), method="newton", ridge=0.01)
        pseudo_inverse(good, method="newton")
    assert seen.calls == 3
    assert first < 1e-6
    assert seen.worst == pytest.approx(0.91, abs=0.02)
    assert not seen.converged
    assert seen.note == f"inverse not converged: residual {seen.worst:.2g} (20 steps of newton)"
    pseudo_inverse(blank(), method="newton", ridge=0.01)
    assert seen.calls == 3


@pytest.mark.parametrize("method", ["cholesky", "scaled_newton", "eigh"])
def test_methods_that_converge_pass_in_single_precision(method: str) -> None:
    with watch() as seen:
        pseudo_inverse(blank(), method=method, ridge=0.01)
    assert (seen.calls, seen.converged, seen.note) == (1, True, "")
    assert 0 < seen.worst < 0.05


def test_what_is_not_finite_has_not_converged() -> None:
    with watch() as seen:
        pseudo_inverse(blank(), method="cholesky", ridge=0.0)
    assert seen.worst == float("inf")
    assert seen.note == "inverse not converged: residual inf (cholesky)"


def test_watches_nest_and_end_with_an_error() -> None:
    with watch() as outer:
        with pytest.raises(UsageError), watch() as inner:
            assert pseudo_inverse(blank(), method="newton", ridge=0.01) is pseudo_inverse(blank(), method="svd")
        pseudo_inverse(blank(), method="cholesky", ridge=0.01)
    assert (outer.calls, inner.calls) == (2, 1)
    assert outer.worst == inner.worst
    with watch() as first, watch() as second:
        pass
    assert first is not second
    assert not op._watching._watches


def test_nothing_is_computed_without_a_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op._watching, "residual", lambda *_: pytest.fail("a residual was computed"))
    pseudo_inverse(blank(), method="cholesky", ridge=0.01)


def test_watching_changes_neither_values_nor_gradients_and_ignores_meta_tensors() -> None:
    x, _, _ = helpers.inputs(Shape(1, 2, 1, 9, 4))
    leaf = (x @ x.mT + torch.eye(9)).requires_grad_()
    plain = pseudo_inverse(leaf, method="newton")
    with watch() as seen:
        watched = pseudo_inverse(leaf, method="newton")
        pseudo_inverse(leaf.detach().to("meta"), method="newton")
    assert seen.calls == 1
    assert torch.equal(plain, watched)
    assert torch.equal(*(helpers.gradients(y, [leaf])[0] for y in (plain, watched)))


@pytest.mark.parametrize(("name", "inverse", "converged"), [("soft", "newton", False), ("soft", "cholesky", True),
                                                            ("soft_norm", "scaled_newton", True)])
def test_sees_into_an_attention(name: str, inverse: str, converged: bool) -> None:
    shape = Shape(1, 1, 14, 14, 8)
    q, _, v = helpers.inputs(shape, scale=0.1, dtype=torch.float32)
    with watch() as seen:
        helpers.load(name, inverse=inverse).build(shape, "eager")(q, q, v, grid=shape.grid)
    assert seen.calls == 1
    assert seen.converged == converged
