"""Landmarks that look at the tokens: k-means and randomly pivoted Cholesky, against plain formulas."""

from __future__ import annotations

import contract
import helpers
import pytest
import torch
from torch import Tensor

from softbench.attention import _adaptive
from softbench.attention._landmarks import Landmarks
from softbench.case import Shape

SHAPE = Shape(2, 3, 7, 9, 4)
SAMPLINGS = list(_adaptive.SAMPLINGS)


def tokens(kind: str = "structured", scale: float = 0.7) -> Tensor:
    return helpers.inputs(SHAPE, kind, scale=scale)[0]


def positions(x: Tensor, landmarks: Tensor) -> Tensor:
    """Which token each landmark is, [B, H, m]."""
    return (x.unsqueeze(2) - landmarks.unsqueeze(3)).square().sum(-1).argmin(-1)


@pytest.mark.parametrize("name", ["soft", "soft_norm"])
@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("check", sorted(set(contract.CHECKS) - {"options"}))
def test_attention_with_them_keeps_the_contract(check: str, sampling: str, name: str) -> None:
    attention = helpers.load(name, sampling=sampling, landmarks=9)
    contract.CHECKS[check](attention, "eager")


def test_pivots_are_those_of_the_algorithm() -> None:
    """Chen et al., Algorithm 2.1, on whole matrices: S - S[:, P] S[P, P]^-1 S[P, :] after each pivot."""
    x = tokens()
    picked = positions(x, _adaptive.landmarks(x, "rpcholesky", 12, seed=3))
    uniforms = torch.rand(12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for b in range(2):
        for h in range(3):
            kernel = (-torch.cdist(x[b, h], x[b, h]).square() / 2).exp()
            residual, expected = kernel.clone(), []
            for u in uniforms:
                weight = residual.diagonal().clamp(min=0)
                pivot = int((weight.cumsum(0) > u * weight.sum()).nonzero()[0])
                expected.append(pivot)
                residual = residual - residual[:, pivot:pivot + 1] @ residual[pivot:pivot + 1] / residual[pivot, pivot]
            assert picked[b, h].tolist() == expected
            assert len(set(expected)) == 12


def test_pivots_leave_less_than_uniform_draws_where_tokens_are_crowded() -> None:
    """A crowd and a few far tokens: pivots find those, uniform draws do not."""
    generator = torch.Generator().manual_seed(0)
    crowd = 0.05 * torch.randn(1, 1, 300, 3, generator=generator, dtype=torch.float64)
    crowd[:, :, :9] += 6 * torch.randn(1, 1, 9, 3, generator=generator, dtype=torch.float64)
    kernel = (-torch.cdist(crowd, crowd).square() / 2).exp()[0, 0]

    def left(sampling: str, seed: int) -> float:
        landmarks = Landmarks(sampling, 12, (1, 300), 3, seed)(crowd, (1, 300))
        index = positions(crowd, landmarks)[0, 0]
        inverse = torch.linalg.pinv(kernel[index][:, index], rtol=1e-10, hermitian=True)
        return float((kernel - kernel[:, index] @ inverse @ kernel[index]).trace())

    adaptive, uniform = (sum(left(s, seed) for seed in range(5)) for s in ("rpcholesky", "random"))
    assert adaptive < 0.5 * uniform


def test_centres_are_a_fixed_point_that_lloyd_would_keep() -> None:
    x = helpers.inputs(Shape(1, 2, 8, 8, 3), "structured", scale=3.0)[0]
    centres = _adaptive.landmarks(x, "kmeans", 7, seed=0)
    for h in range(2):
        group = torch.cdist(x[0, h], centres[0, h]).argmin(1)
        means = torch.stack([x[0, h, group == g].mean(0) for g in range(7)])
        assert helpers.relative(centres[0, h], means) < 0.1


def test_centres_find_clusters_that_are_plain() -> None:
    generator = torch.Generator().manual_seed(2)
    middle = 20 * torch.randn(5, 4, generator=generator, dtype=torch.float64)
    x = (middle[torch.arange(60) % 5] + 0.01 * torch.randn(60, 4, generator=generator, dtype=torch.float64))[None, None]
    for seed in range(5):
        centres = _adaptive.landmarks(x, "kmeans", 5, seed)[0, 0]
        assert torch.cdist(middle, centres).amin(1).max() < 0.02


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_draws_follow_the_seed_and_disturb_nothing(sampling: str) -> None:
    x = tokens()
    state = torch.get_rng_state()
    first, again, other = (_adaptive.landmarks(x, sampling, 9, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alike_tokens_are_no_trouble(sampling: str, dtype: torch.dtype) -> None:
    one = torch.ones(1, 1, 40, 3, dtype=dtype)
    two = torch.cat([one, -one], 2)
    assert torch.equal(_adaptive.landmarks(one, sampling, 6, 0), one[:, :, :6])
    found = _adaptive.landmarks(two, sampling, 6, 0)
    assert len(found[0, 0].unique(dim=0)) == 2
    assert found.isfinite().all()
    if sampling == "rpcholesky":
        free = torch.arange(80, dtype=dtype).view(1, 1, 80, 1) * 1e-9  # alike to rounding, and yet told apart
        assert len(positions(free, _adaptive.landmarks(free, sampling, 6, 0)).unique()) == 6


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_tokens_that_are_not_finite_do_not_break_the_others(sampling: str) -> None:
    x = tokens()
    bad = x.clone()
    bad[0, 0, 5] = torch.nan
    good, mixed = (_adaptive.landmarks(t, sampling, 6, 0) for t in (x, bad))
    assert torch.equal(good[1], mixed[1])
    assert torch.equal(good[0, 1:], mixed[0, 1:])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_no_more_tokens_than_landmarks_gives_them_all(sampling: str) -> None:
    x = tokens()
    assert _adaptive.landmarks(x, sampling, 63, 0) is x


def test_gradient_of_a_centre_is_shared_by_its_tokens() -> None:
    x = helpers.inputs(Shape(1, 1, 5, 5, 3), "structured", scale=3.0)[0].requires_grad_()
    centres = _adaptive.landmarks(x, "kmeans", 4, 0)
    (gradient,) = torch.autograd.grad(centres.sum(), x)
    assert float(gradient.sum()) == pytest.approx(4 * 3)
    assert (gradient > 0).all()


def test_gradient_of_a_pivot_is_its_tokens_alone() -> None:
    x = tokens().requires_grad_()
    (gradient,) = torch.autograd.grad(_adaptive.landmarks(x, "rpcholesky", 9, 0).sum(), x)
    assert set(gradient.unique().tolist()) == {0.0, 1.0}
    assert float(gradient.sum()) == 2 * 3 * 9 * 4
