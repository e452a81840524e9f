"""SIGTERM in the middle of a gate: its children end, the revision that was laid out goes, and one line says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from gate import stub
from reports import fake_records as fake

from softbench import records
from softbench.gate import ending, source
from softbench.processes import child
from softbench.processes.stopping import HungUp, Terminated

_PARENT = '''
import signal, sys, tempfile
from contextlib import contextmanager
from pathlib import Path
from softbench.__main__ import main
from softbench.gate import source
from softbench.gate.source import Source

stub = Source(Path(sys.argv[1]), "stub")
source.head = lambda: stub

@contextmanager
def revision(rev):
    with tempfile.TemporaryDirectory(dir=sys.argv[2]):
        yield stub

source.revision = revision
main(["check", "--base", "main", "--attn", "softmax", "--device", "cpu", "--tokens", "16", "--mode", "forward",
      *sys.argv[3:]])
'''
_WAIT = 'open(ROOT + "/pids", "a").write(f"{os.getpid()}\\n"); time.sleep(600)'
_COMMAND = '''
import os, time
from pathlib import Path
ROOT = str(Path(__file__).resolve().parents[1])
''' + _WAIT


@pytest.mark.parametrize(("half", "number", "code"), [
    ("exact", signal.SIGTERM, 143), ("times", signal.SIGTERM, 143), ("times", signal.SIGHUP, 129),
    ("times", signal.SIGINT, 130)])
def test_nothing_stays_behind(tmp_path: Path, half: str, number: signal.Signals, code: int) -> None:
    version = stub.source(tmp_path, "stub", _WAIT)
    (version.root / "softbench" / "__main__.py").write_text(_COMMAND)
    (version.root / "softbench" / "measures").mkdir()
    (version.root / "softbench" / "measures" / "flops.py").write_text("")
    laid_out = tmp_path / "laid-out"
    laid_out.mkdir()
    environment = os.environ | {"PYTHONPATH": str(source.HERE), "TMPDIR": str(laid_out), "OMP_NUM_THREADS": "1"}
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(version.root), str(laid_out), "--only", half],
                              env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    pids = version.root / "pids"
    deadline = time.monotonic() + 60
    expected = 1 if half == "exact" else 2
    while not (pids.exists() and pids.read_text().count("\n") == expected):
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(number)
    _, err = parent.communicate(timeout=30)
    assert parent.returncode == code
    assert err.splitlines()[-1] == f"Error: Ended by {number.name} before all was measured."
    assert [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists()] == []
    assert list(laid_out.iterdir()) == []


_COUNTED = """
import sys
from pathlib import Path
Path(sys.argv[sys.argv.index("--out") + 1]).write_text(RECORD)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_what_is_known_by_then_is_printed_and_kept(tmp_path: Path, number: signal.Signals, code: int) -> None:
    version = stub.source(tmp_path, "stub", _WAIT)
    line = fake.record("flops", quantity="flops_torch", unit="flop", value=1.0, samples=[1.0], detail={}).to_json()
    (version.root / "softbench" / "__main__.py").write_text(_COUNTED.replace("RECORD", repr(line + "\n")))
    (version.root / "softbench" / "measures").mkdir()
    (version.root / "softbench" / "measures" / "flops.py").write_text("")
    environment = os.environ | {"PYTHONPATH": str(source.HERE), "OMP_NUM_THREADS": "1"}
    kept, pids = tmp_path / "kept.jsonl", version.root / "pids"
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(version.root), str(tmp_path), "--out", str(kept)],
                              env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True)
    deadline = time.monotonic() + 60
    while not (pids.exists() and pids.read_text().count("\n") == 2):
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.05)
    parent.send_signal(number)
    out, err = parent.communicate(timeout=30)
    assert parent.returncode == code
    assert out.endswith("1 inconclusive, 1 same.\n")
    assert f"[1] open when {number.name} came" in out
    assert err.splitlines()[-1] == f"Error: Ended by {number.name} before all was measured."
    assert [record.measure for record in records.read(kept)[0]] == ["flops"]
    assert [pid for pid in pids.read_text().split() if Path(f"/proc/{pid}").exists()] == []


def test_a_second_signal_is_obeyed_at_once() -> None:
    with ending.Ending() as gate:
        gate.hold()
        signal.raise_signal(signal.SIGTERM)
        assert gate.over
        assert str(gate.error) == "Ended by SIGTERM before all was measured."
        with pytest.raises(HungUp):
            signal.raise_signal(signal.SIGHUP)


def test_a_child_is_ended_with_the_budget() -> None:
    """Also one that is only started when all is over."""
    now = [0.0]
    gate = ending.Ending(5.0, lambda: now[0])
    now[0] = 5.0
    environment = os.environ | {"PYTHONPATH": str(source.HERE)}
    with child.started("-c", "import time; time.sleep(600)", environment=environment) as late, gate.watching(late):
        assert late.process.wait(30) == -signal.SIGKILL


def test_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), ending.in_order():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_do_without() -> None:
    found: list[str] = []

    def body() -> None:
        with ending.in_order():
            found.append("ran")

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == ["ran"]
