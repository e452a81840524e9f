"""`softbench scaling` can be asked this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from softbench.options import option
from softbench.studies._over_n.settings import CostsOverN

COSTS = ("latency", "memory")


@dataclass(frozen=True)
class Settings(CostsOverN):
    min_tokens: str = option("64", "the shortest length; k means 1,024")
    max_tokens: str = option("16k", "the longest length")
    per_doubling: Literal[1, 2, 4] = option(2, "lengths from one to its double")
    costs: str = option("latency,memory", "latency, memory or both")
    batch: int = option(1, "batch size B", low=1, high=1 << 20)
    rep: float = option(200.0, "ms of timed work for each case", unit="ms", low=1, high=3_600_000)
    rounds: int = option(5, "rounds that the cases of a length are interleaved over", low=1, high=1000)
    timeout: float = option(60.0, "seconds that a case may take; longer lengths are then not run", unit="s",
                            low=0.1, high=1e6)
    extrapolate: str = option("", "lengths beyond the longest, comma-separated, to extrapolate to")
    memory_limit: str = option("", "memory for the length at which it runs out, as 16GiB; by default what is free")
    verify: bool = option(False, "run a call below and above that length in child processes")
