"""Families of inputs: each has the structure it is named for, follows its parameter, and says what it takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softbench import inputs
from softbench.case import Shape
from softbench.errors import UsageError
from softbench.inputs import made_up

SHAPE = Shape(2, 3, 12, 10, 32)


def make(family: str, shape: Shape = SHAPE, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return inputs.tokens(family, shape, seed)


def alike(x: Tensor, y: Tensor) -> Tensor:
    """Mean over samples and heads of the cosine between tokens, [N, N]."""
    x, y = (torch.nn.functional.normalize(t, dim=-1) for t in (x, y))
    return (x @ y.mT).mean((0, 1))


@pytest.mark.parametrize("family", made_up.FAMILIES)
def test_families_follow_the_seed_and_nothing_else(family: str) -> None:
    first = make(family)
    state = torch.get_rng_state()
    for a, b, c in zip(first, make(family), make(family, seed=1), strict=True):
        assert a.shape == (2, 3, 120, 32)
        assert a.dtype == torch.float32
        assert a.is_contiguous()
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.std(first[2]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("family", made_up.FAMILIES)
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 7), (5, 1), (2, 3)])
def test_families_fit_any_grid_and_head(family: str, rows: int, cols: int) -> None:
    for x in make(family, Shape(1, 1, rows, cols, 2)):
        assert x.shape == (1, 1, rows * cols, 2)
        assert x.isfinite().all()


def test_structured_regions_are_shared_by_queries_and_keys_and_contiguous() -> None:
    shape = Shape(1, 16, 24, 24, 64)
    q, k, _ = make("structured:2", shape)
    together = alike(q, k) > 0.5
    assert torch.equal(together.diagonal(), torch.ones(576, dtype=torch.bool))
    assert len(together.unique(dim=0)) == 32
    grid = together.view(24, 24, 24, 24)
    neighbours = float((grid[:, :-1] & grid[:, 1:]).sum() / grid[:, :-1].sum())
    assert neighbours > 0.6
    scattered = (alike(*make("clustered:32", shape)[:2]) > 0.4).view(24, 24, 24, 24)
    assert float((scattered[:, :-1] & scattered[:, 1:]).sum() / scattered[:, :-1].sum()) < 0.2


def test_strength_sets_how_alike_a_region_is() -> None:
    means = [float(alike(*make(f"structured:{alpha}")[:2]).diagonal().mean()) for alpha in (0, 0.5, 1, 4)]
    assert abs(means[0]) < 0.05
    assert means == pytest.approx([0, 0.5, 0.8, 64 / 65], abs=0.05)


def test_clustered_has_as_many_groups_as_asked() -> None:
    q, k, _ = make("clustered:5")
    assert len((alike(q, k) > 0.5).unique(dim=0)) == 5


def test_lowrank_tokens_of_a_head_share_a_subspace() -> None:
    q, k, _ = make("lowrank:3")
    both = torch.cat([q, k], 2).double()
    values = torch.linalg.svdvals(both)
    assert (values[..., 2] > 0.1 * values[..., 0]).all()
    assert (values[..., 3] < 1e-5 * values[..., 0]).all()
    assert float(q.square().mean()) == pytest.approx(1, abs=0.3)


def test_peaky_divides_the_logits() -> None:
    plain, peaky = (make(family) for family in ("normal", "peaky:0.25"))
    assert torch.allclose(peaky[0] @ peaky[1].mT, 4 * (plain[0] @ plain[1].mT), rtol=1e-4, atol=1e-3)


def test_outliers_are_one_in_a_hundred_and_that_much_longer() -> None:
    q, k, _ = make("outliers:20", Shape(1, 1, 20, 20, 64))
    far = q.norm(dim=-1) > 80
    assert int(far.sum()) == 4
    assert torch.equal(far, k.norm(dim=-1) > 80)
    assert float(q[far].norm(dim=-1).mean()) == pytest.approx(160, rel=0.2)


def test_constant_is_one_token_a_head() -> None:
    q, k, _ = make("constant")
    assert torch.equal(q, q[:, :, :1].expand_as(q))
    assert torch.equal(q, k)
    assert not torch.equal(q[0, 0, 0], q[0, 1, 0])


@pytest.mark.parametrize(("family", "message"), [
    ("structured:", "strength alpha must be a number from 0 to 1000, not ''"), ("structured:-1", "from 0 to 1000"),
    ("structured:nan", "not 'nan'"), ("structured:1:2", "not '1:2'"), ("clustered:2.5", "a whole number from 1 to"),
    ("clustered:0", "number of groups"), ("lowrank:1e9", "from 1 to 4096"), ("peaky:0", "temperature"),
    ("constant:1", "takes nothing after a colon, not '1'"), ("outliers:inf", "factor"),
])
def test_bad_parameters_are_told_in_one_line(family: str, message: str) -> None:
    for action in (inputs.check, make):
        with pytest.raises(UsageError, match=message) as error:
            action(family)
        assert "\n" not in str(error.value)


def test_defaults_are_within_bounds() -> None:
    for name, family in made_up.FAMILIES.items():
        if family.parameter:
            assert made_up.parse(f"{name}:{family.default:g}") == made_up.parse(name)


def test_default_dtype_does_not_change_them() -> None:
    usual = {family: make(family) for family in made_up.FAMILIES}
    torch.set_default_dtype(torch.float64)
    try:
        changed = {family: make(family) for family in made_up.FAMILIES}
    finally:
        torch.set_default_dtype(torch.float32)
    for family, tensors in usual.items():
        for a, b in zip(tensors, changed[family], strict=True):
            assert torch.equal(a, b), family
