"""The largest size within a budget: sizes grow fourfold until one does not fit, then bisection on their logarithm.

Costs are taken to grow with the size, so that what does not fit does not fit anywhere above. Where they do not, the
answer is the end of the fitting sizes that the search met first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

_LEAP = 4


@dataclass(frozen=True)
class Sizes:
    """The sizes that may be tried.

    Attributes:
        low, high: the smallest and the largest.
        between: the size nearest to one, by ratio, strictly between two others; None where there is none.
    """

    low: int
    high: int
    between: Callable[[float, float, float], int | None]

    def at(self, size: float) -> int | None:
        """Return the size nearest to one."""
        return self.between(size, self.low - 1, self.high + 1)


@dataclass(frozen=True)
class Answer:
    """Holds what the search found.

    Attributes:
        size: the largest size that fits; 0 where none does.
        binds: what the next larger size that was tried exceeds; "" where every size up to the largest fits.
        above: that size; None as before.
        tried: sizes in the order of the trials.
    """

    size: int
    binds: str
    above: int | None
    tried: list[int] = field(default_factory=list)


def largest(sizes: Sizes, exceeds: Callable[[int], str], precision: float) -> Answer | None:
    """The largest size that fits; None where there is no size to try.

    Args:
        exceeds: what a size exceeds; "" where it fits.
        precision: the answer and the next size that was tried differ by at most this share, where sizes allow.
    """
    tried: list[int] = []

    def attempt(size: int) -> str:
        tried.append(size)
        return exceeds(size)

    first, last = sizes.at(sizes.low), sizes.at(sizes.high)
    if first is None or last is None:
        return None
    fitting, above, binds = 0, first, attempt(first)
    while not binds:
        fitting = above
        if fitting >= last:
            return Answer(fitting, "", None, tried)
        above = sizes.between(min(_LEAP * fitting, last), fitting, sizes.high + 1) or last
        binds = attempt(above)
    while fitting and above > fitting * (1 + precision):
        size = sizes.between(math.sqrt(fitting * above), fitting, above)
        if size is None:
            break
        exceeded = attempt(size)
        if exceeded:
            above, binds = size, exceeded
        else:
            fitting = size
    return Answer(fitting, binds, above, tried)
