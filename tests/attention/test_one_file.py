"""Adding an attention is adding one file: the list, the command line and the contract tests find it by themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import helpers

ROOT = Path(__file__).parents[2]


def test_one_new_file_is_all_it_takes(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "softbench", tmp_path / "softbench", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "softbench" / "attention" / "newcomer.py").write_text(helpers.SOUND)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str, where: Path = tmp_path) -> str:
        done = subprocess.run([sys.executable, "-m", *arguments], cwd=where, env=environment, text=True,
                              capture_output=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "\nnewcomer " in run("softbench", "list")
    assert "newcomer" in run("softbench", "latency", "--attn", "newcomer", "--tokens", "16", "--rep", "2", "--device",
                             "cpu")
    tests = shutil.copytree(ROOT / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    contract = str(tests / "attention" / "test_contract.py")
    passed = run("pytest", contract, "-q", "-k", "newcomer", "-p", "no:cacheprovider")
    assert " passed" in passed
    assert int(passed.rpartition(" passed")[0].split()[-1]) >= 10
