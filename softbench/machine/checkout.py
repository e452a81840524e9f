"""The checkout: at which commit the running package is, if it runs from its own repository at all."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SECONDS = 10.0


def git(folder: Path, *arguments: str) -> str | None:
    """Ask git about a folder, whatever repository the environment names; None where it fails."""
    try:
        done = subprocess.run(["git", "--no-optional-locks", "-C", str(folder), *arguments], capture_output=True,
                              text=True, env=environment(), timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def environment() -> dict[str, str]:
    """This environment without what would make git look at another repository, as within a hook."""
    kept = ("GIT_CONFIG", "GIT_CEILING")
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name.startswith(kept)}


def commit(package: Path) -> tuple[str | None, bool | None]:
    """Commit of a package that lies at the top of its repository, and whether its files differ from it.

    None where it does not: a repository around an environment, or around a copy, says nothing about the package.
    """
    if not is_top(package.parent) or not git(package, "ls-files", "--", "__init__.py"):
        return None, None
    others = git(package, "ls-files", "--others", "--", "*.py")  # files that git ignores are plugins all the same
    return git(package, "rev-parse", "--short=12", "HEAD"), bool(git(package, "status", "--porcelain", "--", ".")
                                                                 or others)


def is_top(folder: Path) -> bool:
    """True where a repository begins at this very folder."""
    top = git(folder, "rev-parse", "--show-toplevel")
    return bool(top) and Path(str(top)).resolve() == folder.resolve()
