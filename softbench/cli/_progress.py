"""Progress on stderr: a bar with the time left on a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from softbench.bench.run import Run, Watch
from softbench.cli import _printing
from softbench.errors import SoftbenchError
from softbench.records import Record
from softbench.records.verbs import WORDS

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from softbench.bench.programme import Programme
    from softbench.training.position import Position

_LINE_SECONDS = 10.0  # between lines on steps of training, where there is no bar


class Progress(Watch):
    """Shows how far a run is.

    Args:
        weights: what each item of a programme should roughly cost, in any unit, as long ones often come last.
        outcomes: the lines that tell, where there is no bar, what became of the items behind some records.
        finish: shows what came of a run, and gives the exit code.
    """

    ends_process = True

    def __init__(self, weights: Callable[[Any], Sequence[float]], outcomes: Callable[[Sequence[Record]], list[str]],
                 finish: Callable[[Run], int]) -> None:
        super().__init__(_printing.say)
        self.finish = finish
        self._of, self._outcomes = weights, outcomes
        self._weights: Sequence[float] = ()
        self._done = 0
        self._bar: Bar | None = None
        self._task: Any = None

    def begin(self, left: Programme) -> None:
        """The items that are left are about to run."""
        self._weights = self._of(left)
        if sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("", total=sum(self._weights))
            self._bar.start()

    def start(self, name: str) -> None:
        """Something runs now."""
        if self._bar:
            from rich.markup import escape

            self._bar.update(self._task, description=escape(name))

    def advance(self, items: int, rows: Sequence[Record]) -> None:
        """Some items are done, and gave these records."""
        weight = sum(self._weights[self._done : self._done + items])
        self._done += items
        if self._bar:
            with suppress(OSError):
                self._bar.advance(self._task, weight)
            return
        for line in self._outcomes(rows):
            _printing.say(f"[{self._done}/{len(self._weights)}] {line}")

    def end(self) -> None:
        """Nothing runs any more."""
        if self._bar:
            with suppress(OSError):  # the terminal may have gone
                self._bar.stop()

    def stuck(self, rows: Sequence[Record], run: Run) -> None:
        """Show what there is, and end this process."""
        code = SoftbenchError.exit_code
        try:
            late = next(row.label for row in rows if row.status == "timeout")
            _printing.say(f"Stopped: {late} took no end after --timeout. With --isolate it would have been ended"
                          " alone.")
            code = self.finish(run)
            _printing.stdout().flush()
        finally:
            os._exit(code)


class Watcher:
    """Tells on stderr how training goes: a bar on a terminal, lines elsewhere; nothing on processes but the first.

    Should nobody be there to listen any more (a closed pipe, a log on a full disk), training goes on untold.
    """

    def __init__(self, speaks: bool, word: str = "image", score: str = "top1") -> None:
        self.speaks, self._said, self._word, self._score = speaks, time.monotonic(), word, score
        self._bar: Any = _bar() if speaks and sys.stderr and sys.stderr.isatty() else None
        self._task: Any = None
        self._begun: tuple[float, int] | None = None  # when, and after how many steps

    def __enter__(self) -> Watcher:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            with suppress(OSError):
                self._bar.stop()

    def say(self, text: str) -> None:
        """A remark."""
        try:
            if self._bar:
                self._bar.console.print(text, markup=False, highlight=False)
            elif self.speaks:
                _printing.say(text)
        except OSError:
            self.speaks = False

    def step(self, position: Position, steps: int, epochs: int, loss: float, lr: float, speed: float) -> None:
        """A step is done."""
        done, total = position.epoch * steps + position.step, epochs * steps
        text = f"epoch {position.epoch + 1}/{epochs}  loss {loss:.4f}  lr {lr:.2e}  {speed:,.0f} {self._word}s/s"
        if self._bar:
            if self._task is None:
                self._task = self._bar.add_task("", total=total, completed=done)  # what was done before has no speed
            self._bar.update(self._task, completed=done, description=text)
            return
        now = time.monotonic()
        since, before = self._begun = self._begun or (now, done)
        if now - self._said > _LINE_SECONDS:
            self._said = now
            if done > before:
                text += f"  {timedelta(seconds=round((now - since) / (done - before) * (total - done)))} left"
            self.say(f"[{done}/{total}] {text}")

    def epoch(self, number: int, epochs: int, numbers: dict[str, float]) -> None:
        """An epoch is done and evaluated."""
        score, averaged = self._score, f"{self._score}_ema"
        more = f" (EMA {numbers[averaged]:.2%})" if averaged in numbers else ""
        self.say(f"Epoch {number}/{epochs}: train loss {numbers['train_loss']:.4f}, val. loss {numbers['loss']:.4f},"
                 f" {WORDS.get(score, score)} {numbers[score]:.2%}{more},"
                 f" {numbers[f'{self._word}s_per_second']:,.0f} {self._word}s/s")



def _bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(BarColumn(24), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
               TextColumn("{task.description}"), console=Console(stderr=True), transient=True)
