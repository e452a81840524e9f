"""A package `softbench` that is a worker and nothing else: scripted answers, no torch, started in a moment."""

from __future__ import annotations

from pathlib import Path

from softbench.gate.source import Source

_WORKER = '''
import json, os, random, sys, time
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
hello = json.loads(sys.stdin.readline())
start = ROOT + "/started"
count = os.path.getsize(start) if os.path.exists(start) else 0
open(start, "a").write(".")
source = random.Random(f"{os.path.basename(ROOT)} {count}")  # the same in whatever folder tests run
environment = {"machine": "stub", "threads": hello["process"].get("threads"), "torch": "0", "commit": "x"}


def say(data):
    print(json.dumps(data), flush=True)


BEHAVIOUR
say({"protocol": PROTOCOL, "root": REPORTED, "environment": environment})
for line in sys.stdin:
    open(ROOT + "/log", "a").write(line)
    request = json.loads(line)
    if "prepare" in request:
        case = request["prepare"]["sweep"]
        say(PREPARE(case))
    else:
        say(TIME(case, request["time"]))
'''

_PLAIN = '''
PROTOCOL, REPORTED = 1, ROOT
SECONDS, NOISE = 1e-3, 0.005


def PREPARE(case):
    return {"status": "ok", "note": "", "impl": "eager", "options": {}}


def TIME(case, seconds):
    return {"samples": [SECONDS * (1 + source.gauss(0, NOISE)) for _ in range(5)], "foreign_cpu": 0.0}
'''


def source(folder: Path, name: str, behaviour: str = "") -> Source:
    """A stub in a folder of that name; `behaviour` is Python that changes the plain one, which never fails."""
    root = (folder / name).resolve()
    package = root / "softbench" / "gate"
    package.mkdir(parents=True)
    for init in (root / "softbench", package):
        (init / "__init__.py").write_text("")
    (package / "worker.py").write_text(_WORKER.replace("BEHAVIOUR", _PLAIN + behaviour))
    return Source(root, name, f"commit-{name}", False)


def log(source: Source) -> list[str]:
    """The requests that this stub's workers got, one a line, over all rounds."""
    return (source.root / "log").read_text().splitlines()


def started(source: Source) -> int:
    """How many of this stub's workers were started."""
    return (source.root / "started").stat().st_size
