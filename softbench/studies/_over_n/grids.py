"""The grids of tokens that a search may visit: rows x columns, near to a square, on which every attention can run.

A length N is feasible where N = rows x cols with rows <= cols <= 2 rows and no attention says that it cannot run there
(`Attention.misfit`). Feasible lengths are found when they are asked for and never listed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Grid = tuple[int, int]

_LONGEST = 2  # columns at most, in rows
_STEPS = 128  # rows and columns above this many are multiples of 2, 4, 8 and so on, so that few grids are looked at


@dataclass(frozen=True)
class Grids:
    """Feasible grids from `low` to `high` tokens.

    Attributes:
        misfit: why a grid will not do; "" where it does.
    """

    low: int
    high: int
    misfit: Callable[[Grid], str] = lambda grid: ""

    def nearest(self, tokens: float, above: float = 0, below: float = math.inf) -> Grid | None:
        """The feasible grid nearest to that many tokens, by ratio, strictly between two lengths; None if none is.

        Of grids that are equally near, the one nearest to a square. At most twice as many tokens or half are tried.
        """
        low, high = max(self.low, above + 1, tokens / 2), min(self.high, below - 1, tokens * 2)
        grain = max(1, 2 ** math.floor(math.log2(max(1.0, math.sqrt(tokens) / _STEPS))))
        grids = [(rows, cols) for rows in _multiples(grain, math.sqrt(low / _LONGEST), math.sqrt(high))
                 for cols in _multiples(grain, max(rows, low / rows), min(_LONGEST * rows, high / rows))]
        grids.sort(key=lambda grid: (abs(math.log(grid[0] * grid[1] / tokens)), grid[1] - grid[0]))
        return next((grid for grid in grids if not self.misfit(grid)), None)

    def spread(self, count: int) -> list[Grid]:
        """About `count` grids evenly over the logarithm of their tokens, both ends among them, in ascending order."""
        span = math.log(self.high / self.low)
        lengths = [self.low * math.exp(span * i / (count - 1)) for i in range(count)]
        grids = {grid[0] * grid[1]: grid for tokens in lengths if (grid := self.nearest(tokens))}
        return [grids[tokens] for tokens in sorted(grids)]


def _multiples(step: int, low: float, high: float) -> range:
    """Return the multiples of `step` from `low` to `high`, both included; rounding of a quotient excludes neither."""
    return range(step * max(1, math.ceil(low / step - 1e-9)), math.floor(high + 1e-9) + 1, step)
