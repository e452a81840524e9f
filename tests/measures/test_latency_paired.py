"""Paired rounds of latency: their order, their samples, and the garbage collector meanwhile."""

from __future__ import annotations

import gc
import time
from contextlib import closing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from softbench.measures.latency import Settings
from softbench.measures.latency.timing import paired

SETTINGS = Settings(rep=4.0, warmup=0.0, block=0.5)


@dataclass
class Pause:
    """A workload that takes so many seconds and writes down its name."""

    name: str
    seconds: float
    calls: list[str]
    case: Any = field(default_factory=lambda: SimpleNamespace(mode="forward"))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def prepare(self) -> None:
        return None

    def run(self, state: Any) -> None:
        self.calls.append(self.name)
        time.sleep(self.seconds)


def blocks(calls: list[str]) -> str:
    """The names without repetitions: `aba`."""
    return "".join(name for i, name in enumerate(calls) if not i or calls[i - 1] != name)


def test_rounds_are_abba_and_the_side_that_begins_alternates() -> None:
    calls: list[str] = []
    pair: Any = [Pause("a", 0.001, calls), Pause("b", 0.003, calls)]
    with closing(paired(*pair, SETTINGS)) as rounds:
        for expected in ("ababa", "bab", "aba"):  # the first round comes after both were warmed
            calls.clear()
            one, other, foreign = next(rounds)
            assert blocks(calls) == expected
            assert min(one) >= 0.001
            assert min(other) >= 0.003
            assert 0 <= foreign <= 1


def test_the_garbage_collector_rests_only_while_rounds_are_taken() -> None:
    pair: Any = [Pause("a", 0.0, []), Pause("b", 0.0, [])]
    with closing(paired(*pair, SETTINGS)) as rounds:
        next(rounds)
        assert not gc.isenabled()
    assert gc.isenabled()
