"""Landmarks: the grid rule by brute force, pooling against torch, and each sampling."""

from __future__ import annotations

import copy
import math
from typing import Any

import helpers
import pytest
import torch
from torch.nn import functional as F

from softbench.attention._landmarks import (
    Landmarks,
    avg_pool,
    conv_positions,
    conv_window,
    landmark_count,
    landmark_grid,
    landmark_note,
    segment_means,
)
from softbench.case import Shape
from softbench.errors import UsageError

SHAPE = Shape(2, 3, 7, 9, 4)


@pytest.mark.parametrize(("grid", "count", "expected"), [
    ((56, 56), 49, (7, 7)),
    ((28, 28), 49, (7, 7)),
    ((7, 7), 49, (7, 7)),
    ((7, 9), 49, (6, 8)),
    ((256, 256), 64, (8, 8)),
    ((64, 128), 49, (5, 9)),
    ((1, 1000), 49, (1, 49)),
    ((1000, 1), 49, (49, 1)),
    ((2, 500), 49, (1, 49)),
    ((3, 4), 49, (3, 4)),
    ((1, 1), 49, (1, 1)),
    ((14, 14), 1, (1, 1)),
])
def test_landmark_grid(grid: tuple[int, int], count: int, expected: tuple[int, int]) -> None:
    assert landmark_grid(grid, count) == expected


@pytest.mark.parametrize("count", [1, 7, 49, 50, 64])
def test_landmark_grid_fits_and_is_nearly_full(count: int) -> None:
    for rows in range(1, 20):
        for cols in range(1, 20):
            r, c = landmark_grid((rows, cols), count)
            assert 1 <= r <= rows
            assert 1 <= c <= cols
            assert r * c <= count
            best = max(a * b for a in range(1, rows + 1) for b in range(1, cols + 1) if a * b <= count)
            assert r * c >= 0.9 * best


@pytest.mark.parametrize("to", [(7, 9), (7, 3), (1, 1), (3, 4), (6, 8)])
def test_pooling_matches_torch(to: tuple[int, int]) -> None:
    x, _, _ = helpers.inputs(SHAPE)
    image = x.mT.reshape(6, 4, 7, 9)
    truth = F.adaptive_avg_pool2d(image, to).reshape(2, 3, 4, math.prod(to)).mT
    assert helpers.relative(avg_pool(x, (7, 9), to), truth) < 1e-14


def test_segments_are_consecutive() -> None:
    x, _, _ = helpers.inputs(SHAPE)
    assert torch.allclose(segment_means(x, 9), x.view(2, 3, 9, 7, 4).mean(3))
    assert torch.equal(segment_means(x, 64), x)


def test_first_and_strided_tokens() -> None:
    x = torch.arange(63.0).view(1, 1, 63, 1)
    picked = {kind: Landmarks(kind, 5, (7, 9), 1)(x, (7, 9)).flatten().tolist() for kind in ("first", "strided")}
    assert picked == {"first": [0, 1, 2, 3, 4], "strided": [0, 12, 25, 37, 50]}


def test_random_tokens_come_from_their_seed_alone() -> None:
    x = torch.arange(63.0).view(1, 1, 63, 1).expand(2, 3, 63, 1)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    first, again, other = (Landmarks("random", 10, (7, 9), 1, seed)(x, (7, 9)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first[0, 0].unique()) == 10
    assert (first == first[:1, :1]).all()


@pytest.mark.parametrize("sampling", ["first", "strided", "random", "avg"])
def test_other_grids_than_the_one_built_for_work(sampling: str) -> None:
    x, _, _ = helpers.inputs(Shape(2, 3, 4, 5, 4))
    elsewhere, here = (Landmarks(sampling, 6, grid, 4)(x, (4, 5)) for grid in ((7, 9), (4, 5)))
    assert torch.equal(elsewhere, here)
    assert here.shape == (2, 3, 6, 4)


def test_convolution_is_that_of_the_official_code_where_the_grid_divides() -> None:
    x, _, _ = helpers.inputs(Shape(2, 3, 8, 12, 4))
    module = Landmarks("conv", 6, (8, 12), 4).double()
    assert (module.conv.kernel_size, module.conv.stride, module.conv.bias) == ((4, 4), (4, 4), None)
    truth = torch.empty(2, 3, 6, 4, dtype=x.dtype)
    for b in range(2):
        for h in range(3):
            windows = x[b, h].view(2, 4, 3, 4, 4).permute(0, 2, 4, 1, 3).reshape(6, 64)  # [m, D * 4 * 4]
            y = windows @ module.conv.weight.view(4, 64).T
            y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            truth[b, h] = y * (1 + torch.erf(y / 2**0.5)) / 2
    assert helpers.relative(module(x, (8, 12)), truth) < 1e-12


def test_convolution_pools_what_it_has_beyond_the_landmark_grid() -> None:
    assert landmark_grid((7, 15), 12) == (2, 6)
    assert conv_window((7, 15), 12) == (3, 2)
    assert conv_positions((7, 15), "conv", (3, 2)) == (3, 8)
    assert conv_positions((7, 15), "conv_ratio", (3, 2)) == (2, 7)
    x, _, _ = helpers.inputs(SHAPE)
    module = Landmarks("conv", 49, (7, 9), 4).double()
    mapped = avg_pool(x @ module.conv.weight[:, :, 0, 0].T, (7, 9), (6, 8))
    assert helpers.relative(module(x, (7, 9)), F.gelu(F.layer_norm(mapped, (4,)))) < 1e-12


def test_convolution_replicates_the_border_that_no_window_fills() -> None:
    x, _, _ = helpers.inputs(SHAPE)
    module = Landmarks("conv", 49, (56, 56), 4, window=4).double()
    image = x.view(2, 3, 7, 9, 4)
    full = torch.cat([image, image[:, :, -1:]], 2)
    full = torch.cat([full, *[full[:, :, :, -1:]] * 3], 3)  # [2, 3, 8, 12, 4]
    assert torch.equal(module(x, (7, 9)), module(full.reshape(2, 3, 96, 4), (8, 12)))
    official = Landmarks("conv_ratio", 49, (56, 56), 4, window=4).double()
    official.load_state_dict(module.state_dict())
    cut = image[:, :, :4, :8].reshape(2, 3, 32, 4)
    assert torch.equal(official(x, (7, 9)), official(cut, (4, 8)))


@pytest.mark.parametrize(("grid", "fixed", "growing"), [((56, 56), 49, 49), ((64, 48), 48, 48), ((80, 80), 49, 100)])
def test_a_window_serves_all_grids(grid: tuple[int, int], fixed: int, growing: int) -> None:
    x = torch.zeros(1, 1, math.prod(grid), 2)
    for sampling, count in (("conv", fixed), ("conv_ratio", growing)):
        assert Landmarks(sampling, 49, (56, 56), 2, window=8)(x, grid).shape[2] == count
        assert landmark_count(grid, sampling, 49, 8) == count
    assert landmark_note((80, 80), "conv_ratio", 49, 8) == ("100 landmarks: one for each window, so that they grow with"
                                                            " the image")


def test_conv_ratio_refuses_a_grid_without_a_window() -> None:
    with pytest.raises(UsageError, match="at least one window of 8x8 tokens; the grid is 7x9"):
        Landmarks("conv_ratio", 49, (56, 56), 2, window=8)(torch.zeros(1, 1, 63, 2), (7, 9))


@pytest.mark.parametrize("sampling", ["avg", "conv", "first", "strided", "random"])
def test_count_is_what_is_made_and_never_grows(sampling: str) -> None:
    for grid in ((1, 1), (3, 4), (7, 9), (20, 33)):
        x = torch.zeros(1, 1, math.prod(grid), 2)
        made = Landmarks(sampling, 10, grid, 2)(x, grid).shape[2]
        assert made == landmark_count(grid, sampling, 10) <= 10


def test_notes() -> None:
    assert landmark_note((56, 56), "avg", 49) == ""
    assert landmark_note((7, 9), "first", 49) == ""
    assert landmark_note((7, 9), "avg", 49) == "48 of 49 landmarks: they form a grid"
    assert landmark_note((2, 3), "random", 49) == "every token is a landmark (6, 49 asked)"


@pytest.mark.parametrize(("name", "options"), [
    ("soft", {"sampling": "random", "landmarks": 9}), ("soft", {"sampling": "kmeans", "landmarks": 9}),
    ("skyformer", {"landmarks": 9}), ("reformer", {"bucket": 4}), ("bigbird", {"block": 3}),
])
def test_seed_is_saved_and_a_state_without_one_keeps_that_of_the_module(name: str, options: dict[str, Any]) -> None:
    shape = Shape(1, 2, 9, 9, 8)
    q, k, v = helpers.inputs(shape, "structured")
    ours, other = (helpers.build(helpers.load(name, seed=seed, **options), shape) for seed in (3, 4))
    before = other(q, k, v, grid=shape.grid)
    assert not torch.equal(before, ours(q, k, v, grid=shape.grid))
    state = ours.state_dict()
    old = {key: tensor for key, tensor in state.items() if not key.endswith("seed")}
    assert len(old) < len(state)
    other.load_state_dict(old)
    assert torch.equal(other(q, k, v, grid=shape.grid), before)
    other.load_state_dict(state, assign=True)
    assert torch.equal(other(q, k, v, grid=shape.grid), ours(q, k, v, grid=shape.grid))
    again = copy.deepcopy(other).float().double()
    assert torch.equal(again(q, k, v, grid=shape.grid), other(q, k, v, grid=shape.grid))
