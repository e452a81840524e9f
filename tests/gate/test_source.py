"""A revision is laid out as it was, and nothing of it stays in the repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from softbench.errors import SoftbenchError, UsageError
from softbench.gate import source


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True, capture_output=True,
                          text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository whose last commit changed the package, with a change that no commit holds."""
    folder = tmp_path / "repo"
    (folder / "softbench").mkdir(parents=True)
    git(folder, "init", "-q")
    for text in ("old", "new"):
        (folder / "softbench" / "x.py").write_text(text)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", text)
    (folder / "softbench" / "x.py").write_text("changed")
    return folder


def test_a_revision_is_laid_out_and_taken_away(checkout: Path) -> None:
    before = sorted(p for p in checkout.rglob("*") if p.is_file())
    with source.revision("HEAD~1", checkout) as old, source.revision("HEAD", checkout) as new:
        assert [(s.root / "softbench" / "x.py").read_text() for s in (old, new)] == ["old", "new"]
        assert (old.name, old.commit, old.dirty) == ("HEAD~1", git(checkout, "rev-parse", "HEAD~1")[:12], False)
        roots = [old.root, new.root]
    assert not any(root.exists() for root in roots)
    assert sorted(p for p in checkout.rglob("*") if p.is_file()) == before
    assert (checkout / "softbench" / "x.py").read_text() == "changed"


@pytest.mark.parametrize("rev", ["nothing", "HEAD~9", "--help", ""])
def test_a_revision_that_git_does_not_know(checkout: Path, rev: str) -> None:
    with pytest.raises(UsageError, match="git knows no revision"), source.revision(rev, checkout):
        pass


def test_a_folder_that_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is none"), source.revision("HEAD", tmp_path):
        pass


def test_a_revision_without_the_package(checkout: Path) -> None:
    git(checkout, "rm", "-rq", "--cached", "softbench")
    git(checkout, "commit", "-q", "-m", "gone")
    with pytest.raises(SoftbenchError, match="HEAD has no package softbench"), source.revision("HEAD", checkout):
        pass
