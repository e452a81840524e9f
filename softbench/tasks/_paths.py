"""Dashed paths that keep apart, for `pathfinder`.

Points are (row, col) in pixels; angles are in radians, 0 along a row. A set of pixels is a whole number of side * side
bits, so that many of them are compared in no time.
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from softbench.contracts.task import Array

TRIALS = 20_000  # of a pair of paths on a board
LENGTH, MARGIN, _RETRIES, _FINE = 2, 1, 10, 2
_TURNS = np.arange(0, 2 * math.pi, 1 / (LENGTH + MARGIN))  # a pixel apart on the circle of ends

Point = tuple[int, int]


@dataclass(frozen=True)
class Dash:
    """A dash from `start` to `end`, in the direction in which its path goes."""

    start: Point
    end: Point
    angle: float


Path = list[Dash]


class Board:
    """A square of pixels and those that dashes take up, their margins included."""

    def __init__(self, side: int, rng: Generator) -> None:
        self.side, self.rng, self.taken = side, rng, 0

    def two(self, count: int, apart: int) -> tuple[Path, Path] | None:
        """Two paths of so many dashes that grow in turn, the first from near the centre, the second from `apart` away;
        None where one finds no way on."""
        low = self.side // 2 - 2
        start = int(self.rng.integers(low, low + 4)), int(self.rng.integers(low, low + 4))
        seeds = self._seed(start), self._seed(_moved(start, self._angle(), apart))
        if seeds[0] is None or seeds[1] is None or self._pixels(seeds[0]) & self._pixels(seeds[1]):
            return None
        paths = [seeds[0]], [seeds[1]]
        for _ in range(count - 1):
            for path, other in (paths, paths[::-1]):
                if not self._grown(path, other):
                    return None
        self.taken |= self._all(paths[0]) | self._all(paths[1])
        return paths

    def one(self, count: int) -> Path | None:
        """One path of so many dashes, anywhere; None where it finds no room."""
        for _ in range(_RETRIES):
            seed = self._seed((int(self.rng.integers(1, self.side - 1)), int(self.rng.integers(1, self.side - 1))))
            if seed is None or self._pixels(seed) & self.taken:
                continue
            path = [seed]
            while len(path) < count and self._grown(path, ()):
                pass
            if len(path) == count:
                self.taken |= self._all(path)
                return path
        return None

    def _angle(self) -> float:
        return float(self.rng.random()) * 2 * math.pi

    def _seed(self, start: Point) -> Dash | None:
        """A dash from there in any direction, or None where it leaves the board."""
        angle = self._angle()
        dash = Dash(start, _moved(start, angle, LENGTH), angle)
        return dash if _inside(self.side, dash) else None

    def _grown(self, path: Path, other: Iterable[Dash]) -> bool:
        """Add a dash to the path, which turns by t with weight cos^2 t among those that touch none but their neighbour;
        False where there is none."""
        last = path[-1]
        blocked = self.taken | self._all(path[:-1]) | self._all(other)
        nexts, shares = [], [0.0]
        for dash, pixels in _onwards(self.side, _moved(last.end, last.angle, MARGIN)):
            if not pixels & blocked and (turn := math.cos(dash.angle - last.angle)) > 0:
                nexts.append(dash)
                shares.append(shares[-1] + turn * turn)
        if not nexts:
            return False
        path.append(nexts[bisect.bisect_right(shares, self.rng.random() * shares[-1]) - 1])
        return True

    def _all(self, dashes: Iterable[Dash]) -> int:
        pixels = 0
        for dash in dashes:
            pixels |= self._pixels(dash)
        return pixels

    def _pixels(self, dash: Dash) -> int:
        return _around(self.side, dash.start, dash.end)


def drawn(side: int, paths: Sequence[Path], marks: Sequence[Point], radius: float) -> Array:
    """The picture of all dashes, and of a disc about each mark, in shades of uint8."""
    fine = (np.arange(side * _FINE) + 0.5) / _FINE - 0.5
    ends = np.array([(dash.start, dash.end) for path in paths for dash in path], float)  # [dashes, 2, 2]
    near = (_distance(fine, ends[:, 0], ends[:, 1]) <= 0.5).any(0)
    points = np.array(marks, float)
    near |= (_distance(fine, points, points) <= radius).any(0)
    share = near.reshape(side, _FINE, side, _FINE).mean((1, 3))
    return np.round(share * 255).astype(np.uint8)


def _moved(point: Point, angle: float, by: float) -> Point:
    return round(point[0] + by * math.sin(angle)), round(point[1] + by * math.cos(angle))


def _inside(side: int, dash: Dash) -> bool:
    return min(dash.start + dash.end) > 0 and max(dash.start + dash.end) < side - 1


@functools.lru_cache(maxsize=1 << 16)
def _onwards(side: int, pivot: Point) -> list[tuple[Dash, int]]:
    """The dashes that begin beyond the pivot and go away from it, with the pixels they take up."""
    dashes = []
    for turn in _TURNS:
        end = _moved(pivot, turn, LENGTH + MARGIN)
        angle = math.atan2(end[0] - pivot[0], end[1] - pivot[1])
        dash = Dash(_moved(end, angle + math.pi, LENGTH), end, angle)
        if _inside(side, dash):
            dashes.append((dash, _around(side, dash.start, dash.end)))
    return dashes


@functools.lru_cache(maxsize=1 << 16)
def _around(side: int, start: Point, end: Point) -> int:
    """The pixels that a dash and its margin take up."""
    near = _distance(np.arange(side), np.array([start], float), np.array([end], float))[0] <= MARGIN + 0.5
    return int.from_bytes(np.packbits(near).tobytes(), "big")


def _distance(axis: Array, starts: Array, ends: Array) -> Array:
    """Distances from segments [S, 2] to the points of a square with that axis, [S, rows, cols]."""
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)  # [rows, cols, 2]
    ways = (ends - starts)[:, None, None]
    apart = points - starts[:, None, None]
    along = np.clip((apart * ways).sum(-1) / np.maximum((ways**2).sum(-1), 1e-12), 0, 1)[..., None]
    return np.sqrt(((apart - along * ways) ** 2).sum(-1))
