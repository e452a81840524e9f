"""Statistics of samples that everybody uses."""

from __future__ import annotations

import math
from collections.abc import Sequence


def median(samples: Sequence[float]) -> float:
    """The middle sample, or the mean of the middle two."""
    return _quantile(samples, 0.5)


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """First and third quartile by linear interpolation; NaN where there are no samples, or one is NaN."""
    return _quantile(samples, 0.25), _quantile(samples, 0.75)


def _quantile(samples: Sequence[float], share: float) -> float:
    if not samples or any(map(math.isnan, samples)):
        return math.nan
    ordered = sorted(samples)
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:  # also where both are infinite
        return ordered[low]
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
