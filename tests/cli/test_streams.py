"""Standard streams that are closed, full, cut off or of a small encoding: a run ends for what it does alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from softbench import records

ROOT = Path(__file__).parents[2]
CASE = "flops --attn soft --tokens 64,128 --out x.jsonl --plot p.svg"
STORED = ROOT / "results" / "latency-cpu.jsonl"
_FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of the shell in which `softbench` is this checkout's."""
    command = f'softbench() {{ "{sys.executable}" -m softbench "$@"; }}; set -o pipefail; {line}'
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, errors="replace",
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment)


@pytest.mark.parametrize(("streams", "code", "said"), [
    (">&-", 0, "Records: x.jsonl (12 new)"), ("<&- 2>&-", 0, ""), ("| true", 1, "Records: x.jsonl (12 new)"),
    pytest.param(">/dev/full", 1, "Cannot write the output: No space left on device.", marks=_FULL),
    pytest.param("2>/dev/full", 0, "", marks=_FULL),
])
def test_what_is_measured_is_kept_whoever_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streams: str,
                                                  code: int, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = shell(f"softbench {CASE} {streams}")
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert said in done.stderr
    found, problems = records.read("x.jsonl")
    assert (len(found), problems) == (12, [])
    assert Path("p.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(("line", "code"), [
    ("softbench --version >&-", 0), ("softbench >&- 2>&-", 2), ("softbench show none.jsonl 2>&-", 1),
    pytest.param("softbench nope 2>/dev/full", 2, marks=_FULL),
])
def test_the_exit_code_does_not_depend_on_who_listens(line: str, code: int) -> None:
    done = shell(line)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)


@pytest.mark.parametrize("environment", [
    {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "utf-8"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
])
def test_what_an_encoding_lacks_is_written_as_an_escape(tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / "字.jsonl"
    path.write_text(STORED.read_text().replace('"label": "soft"', '"label": "字 \\udc80"'))
    for form in ("table", "csv"):
        done = shell(f"softbench show '{path}' --format {form}", **environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("linformer") >= 7
    done = shell(f"softbench report '{path}' --out '{tmp_path}/字.html'", **environment)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_pictures_need_no_windows(tmp_path: Path, backend: str) -> None:
    for line in (f"plot '{STORED}' --out '{tmp_path}/p.png'", f"report '{STORED}' --out '{tmp_path}/p.html'",
                 f"compare '{STORED}@softmax' @soft --plot '{tmp_path}/p.svg'"):
        done = shell(f"softbench {line}", MPLBACKEND=backend)
        assert (done.returncode in (0, 3), done.stderr.count("\n")) == (True, 1), done.stderr
    assert {path.suffix for path in tmp_path.iterdir()} == {"", ".png", ".html", ".svg"}


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may become somebody unknown")
def test_nobody_at_home_measures_all_the_same(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    caps = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search"
    alone = f"setpriv --reuid=12345 --regid=12345 --clear-groups {caps} env -u HOME -u XDG_CACHE_HOME"
    command = f"{alone} '{sys.executable}' -m softbench"
    done = shell(f"cd '{tmp_path}' && {command} latency --attn soft --tokens 64 --quick --out x.jsonl")
    if "setpriv" in done.stderr:
        pytest.skip("setpriv is not here, or may not do it")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    done = shell(f"cd '{tmp_path}' && {command} roofline --quick --out r.jsonl")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "Warning: not kept for this machine. There is no home directory: set HOME, or XDG_CACHE_HOME" in done.stderr
    assert "bandwidth" in done.stdout
    assert records.read(tmp_path / "r.jsonl")[1] == []
