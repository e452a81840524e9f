"""Sources: a version of the package in a folder of its own: this checkout, or a git revision laid out beside it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import softbench
from softbench.errors import SoftbenchError, UsageError
from softbench.machine import checkout

HERE = Path(softbench.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Source:
    """A folder that holds the package `softbench`, and what its version is called."""

    root: Path
    name: str
    commit: str | None = None
    dirty: bool | None = None


def head() -> Source:
    """The version that is running, with the changes that its checkout has."""
    return Source(HERE, "this checkout", *checkout.commit(HERE / "softbench"))


@contextmanager
def revision(rev: str, folder: Path = HERE) -> Iterator[Source]:
    """The package as it is at a git revision, in a temporary folder.

    The revision's files are taken out with `git archive`, which leaves nothing behind in the repository, not even after
    a kill, and works in a shallow clone that holds the revision.

    Raises:
        UsageError: not a checkout, or no such revision. SoftbenchError: git or tar failed.
    """
    if not checkout.is_top(folder):
        raise UsageError(f"--base needs a git checkout of softbench, and {folder} is none. Clone it, and run there.")
    commit = checkout.git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
    if not commit:
        raise UsageError(f"--base: git knows no revision '{rev}' here. Fetch it, or name another.")
    with tempfile.TemporaryDirectory(prefix="softbench-base-") as laid:
        packed = subprocess.run(["git", "-C", str(folder), "archive", commit, "softbench"], capture_output=True,
                                env=checkout.environment())
        if packed.returncode:
            raise SoftbenchError(f"--base: {rev} has no package softbench: {_last(packed.stderr.decode())}")
        unpacked = subprocess.run(["tar", "-x", "-C", laid], input=packed.stdout, capture_output=True)
        if unpacked.returncode:
            raise SoftbenchError(f"--base: cannot unpack {rev}: {_last(unpacked.stderr.decode())}")
        yield Source(Path(laid).resolve(), rev, commit[:12], False)


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given").strip()
