"""Trials of the gate on this machine: how often identical code is called slower, how often an injected slowdown is.

    python tests/benchmarks/gate_trials.py --comparisons 300 --out results/gate-aa.jsonl
    python tests/benchmarks/gate_trials.py --comparisons 300 --busy --out results/gate-aa-busy.jsonl
    python tests/benchmarks/gate_trials.py --slowdown 10 --comparisons 60 --out results/gate-ab-10.jsonl

Each trial compares all cases as `softbench check --base` does, with new processes in every round. A slowdown is put
into a copy of the package: after every call it waits until that share of the call's own time has passed once more. One
line of JSON a comparison goes to --out, and the summary to stdout.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softbench.compare.verdicts import Terms
from softbench.gate import check, source
from softbench.gate.check import Check
from softbench.gate.paired import Pair
from softbench.gate.programme import Scope
from softbench.gate.source import Source
from softbench.reports import comparison

_SLOWED = '''

def _slowed(self, _=None, call=Workload._forward):
    import time
    started = time.perf_counter()
    result = call(self)
    end = time.perf_counter() + {share} * (time.perf_counter() - started)
    while time.perf_counter() < end:
        pass
    return result


Workload._forward = _slowed
'''


@contextmanager
def slowed(percent: float) -> Iterator[Source]:
    """This checkout, or a copy of it whose every forward call takes that much longer."""
    if not percent:
        yield source.head()
        return
    with tempfile.TemporaryDirectory(prefix="softbench-slowed-") as folder:
        root = Path(folder).resolve()
        shutil.copytree(source.HERE / "softbench", root / "softbench", ignore=shutil.ignore_patterns("__pycache__"))
        with (root / "softbench" / "workload.py").open("a") as file:
            file.write(_SLOWED.format(share=percent / 100))
        yield Source(root, f"slowed by {percent:g} %")


@contextmanager
def neighbour(busy: bool) -> Iterator[None]:
    """A second process that computes on one core for as long as the trials last."""
    code = ("import os, time\nparent = os.getppid()\nwhile os.getppid() == parent:\n    t = time.time() + 0.2\n"
            "    while time.time() < t: pass\n    time.sleep(0.05)")
    child = subprocess.Popen([sys.executable, "-c", code]) if busy else None
    try:
        yield
    finally:
        if child:
            child.kill()
            child.wait()


def trial(base: Source, head: Source, asked: Check) -> list[dict[str, Any]]:
    """The verdicts of one trial, with the seconds a case took."""
    started = time.perf_counter()
    pair = Pair(base, head, check.plan(asked, base))
    rows = comparison.flat(pair.compare(asked.terms))
    seconds = round((time.perf_counter() - started) / len(rows), 2)
    return [row | {"rounds": pair.rounds, "seconds_a_case": seconds} for row in rows]


def main() -> None:
    """Run trials until there are enough comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slowdown", type=float, default=0.0, help="per cent that the head is slowed down by")
    parser.add_argument("--comparisons", type=int, default=300)
    parser.add_argument("--busy", action="store_true", help="with a second process that computes")
    parser.add_argument("--attn", default="softmax,soft,performer,linformer,nystromformer")
    parser.add_argument("--tokens", default="256,1k")
    parser.add_argument("--threshold", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--most-rounds", type=int, default=24)
    parser.add_argument("--slice-ms", type=float, default=100.0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    asked = Check(Scope(given.attn, given.tokens, "forward", device="cpu", threads=given.threads),
                  Terms(given.threshold / 100), first=given.rounds, cap=given.most_rounds, slice_ms=given.slice_ms)
    found: list[dict[str, Any]] = []
    with slowed(given.slowdown) as head, neighbour(given.busy):
        while len(found) < given.comparisons:
            new = trial(source.head(), head, asked)
            found += new
            if given.out:
                with given.out.open("a") as file:
                    file.writelines(json.dumps(row) + "\n" for row in new)
            print(f"{len(found)} comparisons, {new[0]['seconds_a_case']} s a case: "
                  f"{dict(Counter(row['verdict'] for row in found))}", file=sys.stderr, flush=True)
    counts = Counter(row["verdict"] for row in found)
    what = f"head slowed down by {given.slowdown:g} %" if given.slowdown else "identical code"
    print(f"{what}{', beside a busy process' if given.busy else ''}: {len(found)} comparisons")
    for verdict, count in counts.most_common():
        print(f"  {verdict:<13} {count:>5}  {count / len(found):6.1%}")
    print(f"  seconds a case: {max(row['seconds_a_case'] for row in found):g} at most")


if __name__ == "__main__":
    main()
