"""Where one attention overtakes another: a scan over log N, then bisection of every place where the sign changes.

The difference at N is d = ln(cost of the attention / cost of the baseline); below 0 the attention is ahead. A meter
gives rounds of d at a grid of tokens, and here it is decided what is measured next and when to stop. Nothing in this
file knows what a cost is or how it is taken.

What a process keeps for its life, such as where its memory lies, is the same in all probes of one process and would
move the crossing unseen. So the probes around it are measured again in further processes, and its interval is over
processes (`location.py`).

A probe takes rounds, first `Terms.first` and then twice as many up to `Terms.cap`, until the t interval of their mean
excludes 0 or lies within the margin. With K looks each has 1/K of the 5 % (`compare.rule`), so that the sign of a
probe is wrong less than once in forty, whenever it stops. A probe that is undecided has the sign 0 and takes no part
in the bracket; the search then narrows the gaps on both sides of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from softbench.compare import rule
from softbench.compare.rule import Estimate
from softbench.studies._over_n.grids import Grid, Grids

ATTENTION, BASELINE = "attention", "baseline"
AHEAD, UNDECIDED, BEHIND = -1, 0, 1
WINDOW, AROUND = 2.0, 7  # a line is fitted to this many probes, from half to twice the length in the middle


class Stopped(Exception):
    """One of the two does not run at a length. `side` says which; status and note are those of a record."""

    def __init__(self, side: str, status: str, note: str) -> None:
        super().__init__(f"{side}: {status} ({note})")
        self.side, self.status, self.note = side, status, note


class Meter(Protocol):
    """Compares the two.

    Attributes:
        exact: one round says everything, and a difference of 0 is a tie.
    """

    exact: bool

    def rounds(self, grid: Grid, seconds: float) -> Generator[float, None, None]:
        """Differences d, one a round, without end. Raises Stopped where a side does not run in so many seconds."""
        ...

    def again(self, grids: Sequence[Grid], rounds: int, seconds: float) -> list[list[float]]:
        """So many rounds at each grid, in a new process. Raises Stopped where it is not done in so many seconds."""
        ...


@dataclass(frozen=True)
class Terms:
    """How hard to look.

    Attributes:
        points: lengths of the scan.
        first, cap: rounds before the first look at a probe, and the most rounds.
        margin: a difference that is too small to matter, in logarithms.
        resolution: ratio of a bracket's ends, less one, that is narrow enough; 0 goes on to neighbouring grids.
        processes: how many the probes around a crossing are measured in, where costs are not exact.
    """

    points: int = 5
    first: int = 4
    cap: int = 16
    margin: float = math.log(1.02)
    resolution: float = 0.1
    processes: int = 1


@dataclass(frozen=True)
class Probe:
    """Holds what is known at one length.

    Attributes:
        sign: AHEAD, BEHIND or UNDECIDED. Where the baseline alone does not run, the attention is ahead.
        interval: of the mean difference, at the level that the sign was decided with.
        stopped: why there is no difference.
    """

    grid: Grid
    sign: int
    differences: list[float] = field(default_factory=list)
    estimate: Estimate | None = None
    interval: tuple[float, float] = (-math.inf, math.inf)
    stopped: Stopped | None = None

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def gone(self) -> bool:
        """True where the baseline does not run here, though the attention may."""
        return self.stopped is not None and self.stopped.side == BASELINE


@dataclass
class Bracket:
    """A change of sign: it lies between `low` and `high`, tokens of decided probes; None where no probe is decided.

    `course` holds the ends after each probe; `rising` means that the attention falls behind with N.
    """

    low: int | None
    high: int | None
    rising: bool = False
    course: list[tuple[int, int]] = field(default_factory=list)

    @property
    def middle(self) -> float:
        """Return the length in the middle of a closed bracket, by ratio."""
        return math.sqrt((self.low or math.nan) * (self.high or math.nan))


@dataclass
class Search:
    """One search, and everything it found.

    Attributes:
        left: seconds that it may still take.
        probes: by their tokens. brackets: in ascending order. ended: the budget ended it before it was through.
        narrowed: all brackets are as narrow as they should be.
        again: the differences that each further process gave around the brackets, by tokens.
        missed: why there are not as many processes as there should be.
    """

    meter: Meter
    grids: Grids
    terms: Terms
    left: Callable[[], float]
    probes: dict[int, Probe] = field(default_factory=dict)
    brackets: list[Bracket] = field(default_factory=list)
    ended: bool = False
    narrowed: bool = False
    again: list[dict[int, list[float]]] = field(default_factory=list)
    missed: str = ""

    def run(self) -> Search:
        """Scan, then narrow every bracket, the last one first as the longest lengths matter most."""
        self._scan()
        self.brackets = self._changes()
        for bracket in reversed(self.brackets):
            self._narrow(bracket)
        fitted = [] if self.meter.exact else [b for b in self.brackets if b.low and b.high
                                              and not self.probes[b.high].gone]
        for bracket in reversed(fitted):
            self._surround(bracket)
        self.narrowed = not self.ended
        self._repeat(fitted)
        return self

    def around(self, bracket: Bracket) -> list[Probe]:
        """The probes that a closed bracket's line is fitted to."""
        start, end = self._window(bracket)
        return [p for p in self.ordered if p.estimate and (p.tokens in (bracket.low, bracket.high)
                                                           or start * (1 - 1e-9) <= p.tokens <= end * (1 + 1e-9))]

    def _window(self, bracket: Bracket) -> tuple[float, float]:
        """From half to twice the length in the middle of a bracket, but no nearer to another bracket than to this."""
        middle = bracket.middle
        start, end = max(self.grids.low, middle / WINDOW), min(self.grids.high, middle * WINDOW)
        for other in self.brackets:
            between = math.sqrt(middle * other.middle)
            if other.middle < middle:
                start = max(start, between)
            elif other.middle > middle:
                end = min(end, between)
        return start, end

    @property
    def ordered(self) -> list[Probe]:
        """Return all probes by their tokens."""
        return [self.probes[tokens] for tokens in sorted(self.probes)]

    def _scan(self) -> None:
        """Lengths from the shortest on, until one side runs out of memory or time."""
        for grid in self.grids.spread(self.terms.points):
            probe = self._probe(grid)
            if probe is None:
                return
            if probe.stopped and (probe.gone or probe.stopped.status in ("oom", "timeout")):
                return

    def _changes(self) -> list[Bracket]:
        """The brackets between decided probes, or the open one where an end of the range is undecided."""
        decided = [p for p in self.ordered if p.sign]
        brackets = [Bracket(a.tokens, b.tokens, b.sign == BEHIND) for a, b in pairwise(decided) if a.sign != b.sign]
        undecided = [p.tokens for p in self.ordered if not p.sign and p.estimate]
        if decided and not brackets and undecided:
            first, last = decided[0], decided[-1]
            if first.sign == AHEAD and undecided[0] < first.tokens:
                brackets = [Bracket(None, first.tokens)]
            elif last.sign == BEHIND and undecided[-1] > last.tokens:
                brackets = [Bracket(last.tokens, None)]
        return brackets

    def _narrow(self, bracket: Bracket) -> None:
        """Bisect until the ends are near enough, no grid lies between, or the budget is over."""
        self._note(bracket)
        while (target := self._next(bracket)) is not None:
            probe = self._probe(target)
            if probe is None:
                return
            if probe.stopped and not probe.gone:  # between two lengths where it ran: nothing more to learn here
                return
            if probe.sign == (AHEAD if bracket.rising else BEHIND):
                bracket.low = max(probe.tokens, bracket.low or 0)
            elif probe.sign:
                bracket.high = min(probe.tokens, bracket.high or probe.tokens)
            self._note(bracket)

    def _surround(self, bracket: Bracket) -> None:
        """Measure around a closed bracket, in the widest gap each time, until there are enough probes for a line."""
        start, end = self._window(bracket)
        while len(measured := [p.tokens for p in self.ordered if p.estimate and start <= p.tokens <= end]) < AROUND:
            gaps = sorted(pairwise(sorted({start, *measured, end})), key=lambda gap: gap[0] / gap[1])
            grids = (self.grids.nearest(math.sqrt(a * b), above=a, below=b) for a, b in gaps)
            grid = next(filter(None, grids), None)
            probe = self._probe(grid) if grid else None
            if probe is None or probe.stopped:
                return

    def _repeat(self, brackets: Sequence[Bracket]) -> None:
        """Measure the probes of all lines again, in further processes."""
        grids = {probe.tokens: probe.grid for bracket in brackets for probe in self.around(bracket)}
        while grids and len(self.again) < self.terms.processes - 1:
            try:
                if (left := self.left()) <= 0:
                    raise Stopped(ATTENTION, "timeout", "")
                differences = self.meter.again(list(grids.values()), self.terms.first, left)
            except Stopped as stopped:
                late = stopped.status == "timeout" and self.left() <= 0
                self.ended |= late
                self.missed = "the budget was over" if late else f"{stopped.status}, {stopped.note}"
                return
            self.again.append(dict(zip(grids, differences, strict=True)))

    def _next(self, bracket: Bracket) -> Grid | None:
        """The grid in the middle of the widest gap: of all, or beside what is undecided. None: narrow enough."""
        low, high = bracket.low, bracket.high
        within = [p.tokens for p in self.ordered if (low or 0) < p.tokens < (high or math.inf)]
        gaps = []
        if low is not None:
            gaps.append((low, within[0] if within else high))
        if high is not None and (within or low is None):
            gaps.append((within[-1] if within else self.grids.low, high))
        for start, end in sorted(((a, b) for a, b in gaps if b), key=lambda gap: gap[0] / gap[1]):
            if end / start > 1 + self.terms.resolution:
                grid = self.grids.nearest(math.sqrt(start * end), above=start, below=end)
                if grid:
                    return grid
        return None

    def _note(self, bracket: Bracket) -> None:
        bracket.course.append((bracket.low or self.grids.low, bracket.high or self.grids.high))

    def _probe(self, grid: Grid) -> Probe | None:
        """Measure one length; None, and `ended`, where the budget does not suffice."""
        left = self.left()
        if left <= 0:
            self.ended = True
            return None
        probe = self._measure(grid, left)
        if probe.stopped and probe.stopped.status == "timeout":
            self.ended = True
            return None
        self.probes[probe.tokens] = probe
        self.ended |= self._open(probe)
        return probe

    def _measure(self, grid: Grid, left: float) -> Probe:
        terms, differences = self.terms, list[float]()
        looks = 1 if self.meter.exact else rule.looks(terms.first, terms.cap)
        enough = 1 if self.meter.exact else min(terms.first, terms.cap)
        try:
            with closing(self.meter.rounds(grid, left)) as rounds:
                while True:
                    for difference in rounds:
                        differences.append(difference)
                        if len(differences) >= enough or self.left() <= 0:
                            break
                    probe = self._judged(grid, differences, looks)
                    if not self._open(probe) or self.left() <= 0:
                        return probe
                    enough = min(2 * enough, terms.cap)
        except Stopped as stopped:
            return Probe(grid, AHEAD if stopped.side == BASELINE else UNDECIDED, stopped=stopped)

    def _judged(self, grid: Grid, differences: list[float], looks: int) -> Probe:
        estimate = rule.paired(differences)
        if self.meter.exact:
            low = high = estimate.mean
        else:
            low, high = estimate.interval(rule.LEVEL / looks)
        return Probe(grid, AHEAD if high < 0 else BEHIND if low > 0 else UNDECIDED, differences, estimate, (low, high))

    def _open(self, probe: Probe) -> bool:
        """True where more rounds may still decide the probe."""
        low, high = probe.interval
        tied = -self.terms.margin < low and high < self.terms.margin
        return not (probe.sign or probe.stopped or tied or self.meter.exact) and (
            len(probe.differences) < self.terms.cap)
