"""Runs of a base and a head that hold every verdict, as records, for comparisons to be tested on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports import fake_records as fake

from softbench.compare.sides import Side
from softbench.records import Record
from softbench.stats import median

HEAD = fake.ENVIRONMENT | {"commit": "def", "dirty": True}


def timed(seconds: float = 1e-3, *, rounds: int = 5, each: int = 4, noise: float = 0.005, seed: int = 0,
          slope: Sequence[float] = (), **changed: Any) -> Record:
    """A latency with samples in rounds; all of a round share part of their noise. `slope` adds to the log of rounds."""
    source = random.Random(seed)
    steps = [source.gauss(0, noise) + (slope[i] if slope else 0.0) for i in range(rounds)]
    samples = [seconds * (1 + step + source.gauss(0, noise / 2)) for step in steps for _ in range(each)]
    detail = {"samples_per_round": [each] * rounds} | changed.pop("detail", {})
    return fake.record(**({"value": median(samples) if samples else seconds, "samples": samples,
                           "detail": detail} | changed))


def both() -> tuple[list[Record], list[Record]]:
    """The records of a base and of a head: one case or more of each verdict."""
    wide = {"noise": 0.08}
    base = [timed(1e-3, seed=1, attention="soft", tokens=256), timed(2e-3, seed=2, attention="soft", tokens=1024),
            timed(4e-3, seed=3, attention="soft", tokens=4096), timed(8e-3, seed=4, attention="performer", **wide),
            timed(1.6e-2, seed=5, attention="performer", tokens=4096), timed(3e-3, seed=6, tokens=1024),
            timed(3e-2, seed=7, tokens=4096), fake.failed("oom", tokens=8192, note="needs 8 GiB"),
            fake.failed("oom", tokens=16384, note="needs 64 GiB"), timed(3e-6, seed=17, tokens=16),
            timed(5e-3, seed=8, attention="linformer", environment=fake.ENVIRONMENT | {"threads": 1})]
    head = [timed(1.2e-3, seed=11, attention="soft", tokens=256, environment=HEAD),
            timed(2e-3, seed=12, attention="soft", tokens=1024, environment=HEAD, impl="triton"),
            timed(3e-3, seed=13, attention="soft", tokens=4096, environment=HEAD),
            timed(8.1e-3, seed=14, attention="performer", environment=HEAD, **wide),
            timed(3e-3, seed=16, tokens=1024, environment=HEAD),
            fake.failed("failed", tokens=4096, environment=HEAD, note="the output is not finite"),
            timed(9e-2, seed=17, tokens=8192, environment=HEAD),
            fake.failed("oom", tokens=16384, note="needs 64 GiB", environment=HEAD),
            timed(3.3e-6, seed=18, tokens=16, environment=HEAD),
            timed(5e-3, seed=18, attention="linformer", environment=HEAD),
            timed(5e-4, seed=19, attention="mean", tokens=256, environment=HEAD)]
    sizes = {"softmax": (2.0**20, 2.0**20), "soft": (3e5, 3.2e5), "performer": (4e5, 3.5e5)}
    counts = {"softmax": (1e9, 1e9), "soft": (1e8, 1.05e8)}
    errors = {"soft": (0.10, 0.1004), "performer": (0.2, 0.3)}
    for measure, quantity, unit, table in (("memory", "peak_memory", "B", sizes),
                                           ("flops", "flops_torch", "flop", counts),
                                           ("approx_error", "error_output", "1", errors)):
        for attention, values in table.items():
            for side, value, where in zip((base, head), values, (fake.ENVIRONMENT, HEAD), strict=True):
                side.append(fake.record(measure, attention, quantity=quantity, unit=unit, value=value, samples=[value],
                                        detail={}, environment=where))
    return base, head


def side(*found: Record, label: str = "") -> Side:
    """These records as a side."""
    return Side("side", label, list(found), [])


def write(path: Path | str, found: Sequence[Record]) -> None:
    """A result file of these records."""
    Path(path).write_text("".join(record.to_json() + "\n" for record in found))
