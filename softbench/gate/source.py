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
    commit = _git(HERE, "rev-parse", "--short=12", "HEAD")
    dirty = bool(_git(HERE, "status", "--porcelain", "--", "softbench")) if commit else None
    return Source(HERE, "this checkout", commit, dirty)


@contextmanager
def revision(rev: str, checkout: Path = HERE) -> Iterator[Source]:
    """The package as it is at a git revision, in a temporary folder.

    The revision's files are taken out with `git archive`, which leaves nothing behind in the repository, not even after
    a kill, and works in a shallow clone that holds the revision.

    Raises:
        UsageError: not a checkout, or no such revision. SoftbenchError: git or tar failed.
    """
    if _git(checkout, "rev-parse", "--git-dir") is None:
        raise UsageError(f"--base needs a git checkout of softbench, and {checkout} is none. Clone it, and run there.")
    commit = _git(checkout, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
    if not commit:
        raise UsageError(f"--base: git knows no revision '{rev}' here. Fetch it, or name another.")
    with tempfile.TemporaryDirectory(prefix="softbench-base-") as folder:
        packed = subprocess.run(["git", "-C", str(checkout), "archive", commit, "softbench"], capture_output=True)
        if packed.returncode:
            raise SoftbenchError(f"--base: {rev} has no package softbench: {_last(packed.stderr.decode())}")
        unpacked = subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, capture_output=True)
        if unpacked.returncode:
            raise SoftbenchError(f"--base: cannot unpack {rev}: {_last(unpacked.stderr.decode())}")
        yield Source(Path(folder).resolve(), rev, commit[:12], False)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "--no-optional-locks", "-C", str(folder), *arguments], capture_output=True,
                              text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no reason given").strip()
