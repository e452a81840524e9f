"""Progress on stderr: a bar with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self

from softbench.cli import printing
from softbench.records import Record

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """Shows how far a run is.

    Args:
        weights: what each item of the run should roughly cost, in any unit, as long ones often come last.
        outcomes: the lines that tell, where there is no bar, what became of the items behind some records.
    """

    def __init__(self, weights: Sequence[float], outcomes: Callable[[Sequence[Record]], list[str]]) -> None:
        self.done = 0
        self._weights = list(weights)
        self._outcomes = outcomes
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task = self._bar.add_task("", total=sum(self._weights)) if self._bar else None

    @property
    def total(self) -> int:
        return len(self._weights)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._bar:
            with suppress(OSError):  # the terminal may have gone
                self._bar.stop()

    def start(self, item: str) -> None:
        """An item begins."""
        if self._bar and self._task is not None:
            from rich.markup import escape

            self._bar.update(self._task, description=escape(item))

    def advance(self, items: int, group: Sequence[Record]) -> None:
        """Some items are done, and gave these records."""
        weight = sum(self._weights[self.done : self.done + items])
        self.done += items
        if self._bar and self._task is not None:
            with suppress(OSError):
                self._bar.advance(self._task, weight)
            return
        for line in self._outcomes(group):
            printing.say(f"[{self.done}/{self.total}] {line}")


def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(BarColumn(24), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
               TextColumn("{task.description}"), console=Console(stderr=True), transient=True)
