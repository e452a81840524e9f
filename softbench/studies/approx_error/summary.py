"""Summaries of samples: their mean and its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

# 97.5 % quantile of Student's t for 1, 2, ... degrees of freedom.
_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
      2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
      2.0452, 2.0423)


def mean_interval(samples: Sequence[float]) -> tuple[float, list[float] | None]:
    """The mean, and the 95 % interval of the mean by Student's t; no interval for a single sample, or infinite ones.

    The samples are taken as independent and about normal; beyond 30 degrees of freedom t is 1.96 + 2.4 / them, which
    is right to 0.002.
    """
    mean = fmean(samples)
    if len(samples) < 2 or not math.isfinite(mean):
        return mean, None
    freedom = len(samples) - 1
    t = _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.4 / freedom
    half = t * stdev(samples) / math.sqrt(len(samples))
    return mean, [mean - half, mean + half]
