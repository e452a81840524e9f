"""A meter of two costs that are known, with noise: what a search is judged by."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from softbench.studies._over_n.grids import Grid, Grids
from softbench.studies.crossover.search import ATTENTION, BASELINE, Search, Stopped, Terms

Cost = Callable[[float], float]


def power(constant: float, exponent: float, overhead: float = 0.0) -> Cost:
    """overhead + constant N^exponent"""
    return lambda tokens: overhead + constant * tokens**exponent


@dataclass
class Fake:
    """Rounds of ln(attention / baseline) with normal noise; each probe, and each process, has luck of its own.

    `fails` says of a length whether a side does not run there, as (side, status).
    """

    attention: Cost
    baseline: Cost
    noise: float = 0.0
    luck: float = 0.0
    process: float = 0.0
    seed: int = 0
    exact: bool = False
    fails: Callable[[int], tuple[str, str] | None] = lambda tokens: None
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.processes = 0
        self._start()

    def _start(self) -> None:
        self.processes += 1
        self.own = self.random.gauss(0, self.process)

    def rounds(self, grid: Grid, seconds: float) -> Generator[float, None, None]:
        tokens = grid[0] * grid[1]
        self.asked.append(tokens)
        if failure := self.fails(tokens):
            raise Stopped(*failure, "as the test wants it")
        luck = self.random.gauss(0, self.luck)
        while True:
            difference = math.log(self.attention(tokens) / self.baseline(tokens))
            yield difference + self.own + luck + self.random.gauss(0, self.noise)

    def again(self, grids: Sequence[Grid], rounds: int, seconds: float) -> list[list[float]]:
        self._start()
        return [list(itertools.islice(self.rounds(grid, seconds), rounds)) for grid in grids]


def search(meter: Fake, low: int = 64, high: int = 16384, left: Callable[[], float] = lambda: 1e9,
           **terms: float) -> Search:
    """A search that is over."""
    return Search(meter, Grids(low, high), Terms(**terms), left).run()  # type: ignore[arg-type]


def crossing(attention: Cost, baseline: Cost, low: float = 64, high: float = 16384) -> float:
    """The length at which the attention becomes the cheaper one."""
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if attention(middle) > baseline(middle) else (low, middle)
    return low


def out_of_memory(side: str, above: int) -> Callable[[int], tuple[str, str] | None]:
    """That side needs more memory than there is beyond so many tokens."""
    assert side in (ATTENTION, BASELINE)
    return lambda tokens: (side, "oom") if tokens > above else None
