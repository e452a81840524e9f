"""What fixing malloc is worth on this machine: the same sweep with and without, in interleaved processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

PAIRS = 3


def _medians(malloc: str, out: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "softbench", "latency", "--attn", "soft,performer", "--tokens", "4k,16k", "--baseline",
         "none", "--malloc", malloc, "--rep", "300", "--format", "jsonl", "--out", str(out)],
        capture_output=True, text=True, check=True)
    rows = map(json.loads, done.stdout.splitlines())
    return {f"{r['label']}, N = {r['rows'] * r['cols']:,}": r["value"] for r in rows}


def test_default_malloc_costs_time(benchmark, tmp_path):
    """Reported, not asserted: the ratio depends on the C library."""
    pairs = [(_medians("default", tmp_path / "d.jsonl"), _medians("fixed", tmp_path / "f.jsonl")) for _ in range(PAIRS)]
    ratios = {case: statistics.median(default[case] / fixed[case] for default, fixed in pairs) for case in pairs[0][0]}
    benchmark.extra_info |= {case: round(ratio, 3) for case, ratio in ratios.items()}
    for case, ratio in ratios.items():
        print(f"{case}: default malloc / fixed = {ratio:.2f}")
    benchmark.pedantic(lambda: None)
    assert set(ratios) == {f"{a}, N = {n}" for a in ("soft", "performer") for n in ("4,096", "16,384")}
