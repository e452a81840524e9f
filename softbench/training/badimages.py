"""Bad images: those that cannot be read are named in a file, counted once each, and too many of them end the job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from softbench.errors import ResultsError
from softbench.training.distributed import Group
from softbench.training.journal import aside
from softbench.training.sources import Split

FILE = "bad-images.txt"


class BadImages:
    """The bad images of a split, over all processes.

    Args:
        folder: where the leading process names them.
        limit: how many are passed over.
        known: indices of those that are named already.
        say: told where they cannot be named.
    """

    def __init__(self, split: Split, title: str, folder: Path, limit: int, group: Group, known: list[int],
                 say: Callable[[str], None]) -> None:
        self.split, self.title, self.folder, self.limit, self.group = split, title, folder, limit, group
        self.known, self.say = known, say

    def note(self, found: list[int]) -> None:
        """Take note of images that this process found to be bad; all processes call this together.

        Raises:
            ResultsError: more images are bad than may be.
        """
        everywhere = {index for some in self.group.gathered(found) for index in some}
        fresh = sorted(everywhere - set(self.known))
        self.known += fresh
        with self.group.together():
            if fresh and self.group.leads:
                with aside(self.say):
                    self._name(fresh)
            if len(self.known) > self.limit:
                raise ResultsError(
                    f"{len(self.known)} images of {self.title} cannot be read, more than --max-bad {self.limit};"
                    f" {self.folder / FILE} names them. Repair them, or allow more.")

    def _name(self, indices: list[int]) -> None:
        lines = [f"{self.title}/{self.split.name(index)}\n" for index in indices]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / FILE).open("a+", encoding="utf-8", errors="surrogateescape") as file:
                file.seek(0)
                named = file.read()  # by this run before it was killed, or by another
                if named and not named.endswith("\n"):
                    file.write("\n")
                before = set(named.splitlines(keepends=True))
                file.writelines(line for line in lines if line not in before)
        except OSError as error:
            raise ResultsError(f"Cannot write {self.folder / FILE}: {error.strerror}.") from error
