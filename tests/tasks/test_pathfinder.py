"""Paths of pathfinder keep apart, turn and are marked by the published rule."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import ndimage, stats

from softbench.contracts import task as tasks
from softbench.errors import UsageError
from softbench.tasks import _paths, pathfinder

SETTINGS = tasks.load("pathfinder", {"side": 24, "contour": 6}).settings
rng = np.random.default_rng(11)
PICTURES = [(label, *pathfinder.picture(SETTINGS, rng, label)) for label in (0, 1) * 8]


def pixels(dash: _paths.Dash) -> np.ndarray:
    """The pixels that a dash itself covers."""
    return _paths._distance(np.arange(24), np.array([dash.start], float), np.array([dash.end], float))[0] <= 0.5


def test_dashes_that_are_no_neighbours_keep_apart() -> None:
    for _, _, paths in PICTURES:
        dashes = [(number, place, pixels(dash)) for number, path in enumerate(paths) for place, dash in enumerate(path)]
        for (a, i, one), (b, j, other) in itertools.combinations(dashes, 2):
            if a != b or abs(i - j) > 1:
                assert not (ndimage.binary_dilation(one, np.ones((3, 3))) & other).any(), (a, i, b, j)


def test_paths_have_their_dashes_and_turn_by_less_than_a_right_angle() -> None:
    for _, _, paths in PICTURES:
        assert [len(path) for path in paths] == [6, 6] + [2] * (len(paths) - 2)
        assert 2 < len(paths) <= 2 + 20 // 2
        for path in paths:
            for one, other in itertools.pairwise(path):
                assert math.cos(other.angle - one.angle) > 0
                assert 1 <= math.dist(one.end, other.start) <= 3.7  # two pixels, each end rounded


def test_marks_stand_at_ends_of_one_path_or_of_two() -> None:
    for label, image, paths in PICTURES:
        bare = _paths.drawn(24, paths, [(-9, -9)], 1.5)
        ends = {(number, point): (place == 0) for number, path in enumerate(paths[:2])
                for place, point in enumerate((path[0].start, path[-1].end))}
        marked = [(number, first) for (number, point), first in ends.items()
                  if (_paths.drawn(24, paths, [point], 1.5) <= image).all()]
        assert len(marked) == 2
        assert sorted(first for _, first in marked) == [False, True]  # one beginning, one end
        assert (marked[0][0] == marked[1][0]) is bool(label)
        assert (image >= bare).all()


def test_a_turn_has_the_weight_of_its_cosine_squared() -> None:
    """Where nothing stands in the way: of the ends within a right angle, a pixel apart, the shares are cos^2."""
    board = _paths.Board(64, np.random.default_rng(2))
    first = _paths.Dash((32, 30), (32, 32), 0.0)
    nexts = [dash for dash, _ in _paths._onwards(64, (32, 33)) if math.cos(dash.angle) > 1e-9]
    shares = np.array([math.cos(dash.angle) ** 2 for dash in nexts])
    counts = np.zeros(len(nexts))
    for _ in range(4000):
        path = [first]
        assert board._grown(path, ())
        counts[nexts.index(path[1])] += 1
    assert len(nexts) >= 8
    by_end = {}
    for dash, count, share in zip(nexts, counts, shares, strict=True):
        by_end.setdefault(dash, [0.0, 0.0])
        by_end[dash][0] += count
        by_end[dash][1] += share
    seen, expected = np.array(list(by_end.values())).T
    assert stats.chisquare(seen, expected * 4000 / expected.sum()).pvalue > 1e-6


def test_no_room_is_said() -> None:
    with pytest.raises(UsageError, match="Two paths of contour=9 dashes find no room on side=12 pixels"):
        tasks.load("pathfinder", {"side": 12, "contour": 9}).open("test")
