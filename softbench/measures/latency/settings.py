"""`softbench latency` can be asked this."""

from __future__ import annotations

from dataclasses import dataclass

from softbench.options import option


@dataclass(frozen=True)
class Settings:
    """How long to measure. Times are milliseconds of work, not counts, so that fast and slow cases cost alike."""

    rep: float = option(500.0, "ms of timed work for each case", unit="ms", low=1, high=3_600_000)
    warmup: float = option(100.0, "ms of untimed work before it", unit="ms", low=0, high=3_600_000)
    rounds: int = option(5, "rounds that the cases are interleaved over", low=1, high=1000)
    block: float = option(2.0, "ms that one sample lasts at least, on a CPU", unit="ms", low=0.01, high=60_000)
