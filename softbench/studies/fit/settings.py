"""`softbench fit` can be asked this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from softbench.options import option
from softbench.studies._over_n.settings import CostsOverN


@dataclass(frozen=True)
class Settings(CostsOverN):
    memory: str = option("", "memory that one call may hold, inputs and parameters included, as 16GiB or 2GB")
    latency: str = option("", "time that one call may take, as 50ms, 1.5s or 200us")
    vary: Literal["tokens", "batch"] = option("tokens", "tokens: the longest input; batch: the largest batch")
    tokens: str = option("4k", "tokens of each sample, where the batch varies; k means 1,024")
    batch: int = option(1, "batch size B, where the tokens vary", low=1, high=1 << 20)
    min_tokens: str = option("64", "the shortest length that is tried")
    max_tokens: str = option("1m", "the longest length that is tried")
    max_batch: int = option(4096, "the largest batch that is tried", low=1, high=1 << 20)
    precision: float = option(0.05, "share by which the answer and the next size may differ", low=0.001, high=4)
    rep: float = option(200.0, "ms of timed work for each trial of latency", unit="ms", low=1, high=3_600_000)
    timeout: float = option(60.0, "seconds that a trial may take", unit="s", low=0.1, high=1e6)
