"""Trials of the gate on this machine: how often identical code is called slower, how often an injected slowdown is.

    python tests/benchmarks/gate_trials.py --out results/gate-trials.csv
    python tests/benchmarks/gate_trials.py --busy --most-rounds 12 --out results/gate-trials.csv
    python tests/benchmarks/gate_trials.py --slowdown 10 --comparisons 60 --out results/gate-trials.csv
    python tests/benchmarks/gate_trials.py --slowdown 5 --comparisons 60 --out results/gate-trials.csv

Each trial compares all cases as `softbench check --base` does, with new processes in every round. A slowdown is put
into a copy of the package: after every call it waits until that share of the call's own time has passed once more. A
row a comparison is appended to --out, below a line with the command, the commit and the machine; the summary goes to
stdout. About an hour for 300 comparisons.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from softbench.compare.verdicts import Terms
from softbench.gate import check, source
from softbench.gate.check import Check
from softbench.gate.paired import Pair
from softbench.gate.programme import Scope
from softbench.gate.source import Source
from softbench.reports.tables import comparison

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


def trial(base: Source, head: Source, asked: Check) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of one trial, with the seconds a case took, and the environment they are of."""
    started = time.perf_counter()
    pair = Pair(base, head, check.plan(asked, base))
    rows = comparison.flat(pair.compare(asked.terms))
    seconds = round((time.perf_counter() - started) / len(rows), 2)
    return [{"attention": row["label"], "tokens": row["rows"] * row["cols"], "seconds": f"{row['base'] or 0:.4g}",
             "ratio": row["ratio"], "low": row["low"], "high": row["high"],
             "rounds": row["units"].partition(" ")[0], "verdict": row["verdict"],
             "seconds_a_case": seconds} for row in rows], pair.environments[0]


def append(path: Path, what: str, rows: Sequence[dict[str, Any]], environment: dict[str, Any] | None) -> None:
    """Rows at the end of a file, below a line about where they are from if they are the first of this command."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, ["trial", *rows[0]], lineterminator="\n")
        if fresh:
            writer.writeheader()
        if environment is not None:
            said = ", ".join(f"{key} {environment[key]}" for key in ("machine", "cpu", "torch", "python", "threads"))
            here = source.head()
            changed = ", with changes" if here.dirty else ""
            file.write(f"# {shlex.join(['python', *sys.argv])}\n# commit {here.commit}{changed}, {said}\n")
        writer.writerows({"trial": what} | row for row in rows)


def main() -> None:
    """Run trials until there are enough comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slowdown", type=float, default=0.0, help="per cent that the head is slowed down by")
    parser.add_argument("--comparisons", type=int, default=300)
    parser.add_argument("--busy", action="store_true", help="with a second process that computes")
    parser.add_argument("--attn", default="softmax,soft,soft_norm,performer,linformer,nystromformer,linear,efficient,"
                        "xca,agent")
    parser.add_argument("--tokens", default="128,256,384,512,768,1k")
    parser.add_argument("--threshold", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--most-rounds", type=int, default=24)
    parser.add_argument("--slice-ms", type=float, default=50.0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    asked = Check(Scope(given.attn, given.tokens, "forward", device="cpu", threads=given.threads),
                  Terms(given.threshold / 100), first=given.rounds, cap=given.most_rounds, slice_ms=given.slice_ms)
    what = (f"{given.slowdown:g} % slower" if given.slowdown else "identical") + (", busy" if given.busy else "")
    what += f", {given.threads} thread{'s' * (given.threads > 1)}" if given.threads else ""
    found: list[dict[str, Any]] = []
    with slowed(given.slowdown) as head, neighbour(given.busy):
        while len(found) < given.comparisons:
            new, environment = trial(source.head(), head, asked)
            if given.out:
                append(given.out, what, new, None if found else environment)
            found += new
            print(f"{len(found)} comparisons, {new[0]['seconds_a_case']} s a case: "
                  f"{dict(Counter(row['verdict'] for row in found))}", file=sys.stderr, flush=True)
    counts = Counter(row["verdict"] for row in found)
    print(f"{what}: {len(found)} comparisons")
    for verdict, count in counts.most_common():
        print(f"  {verdict:<13} {count:>5}  {count / len(found):6.1%}")
    print(f"  seconds a case: {max(row['seconds_a_case'] for row in found):g} at most")


if __name__ == "__main__":
    main()
