"""crossover: the length N* from which on an attention costs less than the baseline, with its 95 % interval.

For latency, peak memory and FLOPs, and for each mode, dtype and head_dim: `scan` lengths evenly over log N find where
the sign of ln(cost of the attention / cost of the baseline) changes, and bisection narrows each such place
(`_crossing`). Lengths are near-square grids on which both run (`_crossing_grids`).

- A comparison of latency is paired and interleaved: both are built and warmed in this process, rounds run in ABBA
  order, and rounds are added, doubling, until the t interval of their mean excludes a ratio of 1 or lies within
  `margin`.
- N* of latency is where the line that is fitted to the probes around the change is 0. They are measured again in
  further processes, `processes` in all, and its interval is Fieller's over these (`_crossing_fit`). Memory and FLOPs
  are exact at a length: their interval is the bracket.
- Where there is no such length the answer says so: always, never up to the longest length, the baseline out of memory
  first, several crossings, or inconclusive.

`budget` bounds the whole command. Each comparison gets its part of what is left; one that the budget cuts short reports
its bracket so far, and runs again with `--resume`.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softbench import dtypes, parsing
from softbench.case import AttentionSpec, Shape
from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Finding, Task
from softbench.errors import UsageError
from softbench.options import option
from softbench.records.views import Dots, Lines, Rows, View

if TYPE_CHECKING:
    from softbench.studies.crossover.meters import Pair
    from softbench.subjects import OneAttention

QUANTITIES = (Quantity("crossover", "1", "derived", answers="overtaking"), Quantity("ratio", "1", "derived", "less"),
              Quantity("bracket", "1", "derived"))
SECTION = Section(place=2)
QUICK: Mapping[str, Any] = {"max_tokens": "2k", "scan": 4, "rounds": 3, "max_rounds": 6, "processes": 1, "budget": 60.0}
COMPARED = ("latency", "memory", "flops")
_WEIGHTS = {"latency": 8.0, "memory": 2.0, "flops": 0.5}  # parts of the budget


@dataclass(frozen=True)
class Settings:
    attn: str = option("soft,performer,nystromformer,linformer", "attentions, as in --attn of the measures")
    baseline: str = option("softmax", "the attention that they are compared with")
    quantities: str = option("latency,memory,flops", "what is compared")
    mode: str = option("forward,training", "forward, backward, training (which is forward_backward)")
    dtype: str = option(dtypes.FLOAT32, dtypes.LISTED)
    heads: int = option(8, "heads", low=1, high=1024)
    head_dim: str = option("64", "sizes of a head D")
    batch: int = option(1, "batch size", low=1, high=65536)
    min_tokens: str = option("64", "the shortest length; k means 1,024")
    max_tokens: str = option("16k", "the longest length")
    budget: float = option(600.0, "seconds that the whole command may take", unit="s", low=1, high=10_000_000)
    scan: int = option(5, "lengths of the scan before bisection", low=2, high=64)
    rounds: int = option(4, "rounds before the first look at a comparison of latency", low=2, high=1000)
    max_rounds: int = option(16, "the most rounds", low=2, high=10_000)
    processes: int = option(5, "processes that N* of latency is taken from", low=1, high=100)
    rep: float = option(20.0, "ms of timed work of each side in a round", unit="ms", low=0.1, high=60_000)
    margin: float = option(0.02, "difference that is too small to go on for, in parts of one", low=0, high=1)
    resolution: float = option(0.1, "width of a bracket that is narrow enough, in parts of one", low=0.001, high=1)
    device: str = option("auto", "cpu, cuda, cuda:1; auto takes a GPU if there is one")
    seed: int = option(0, "of inputs and parameters", low=0, high=2**31 - 1)


_WORDS = {"crossover": "N*", "compared": "quantity", "label": "attention", "head_dim": "D", "tokens": "tokens N",
          "ratio": "attention / baseline", "bracket": "N between", "step": "probe of the bracket"}
_BY = ("label", "compared", "mode", "dtype", "head_dim")
_READ = ("N* [lo, hi]: from N* tokens on the attention costs less than the baseline, with the 95 % interval. always: at"
         " every length tried. never: at none.")

VIEWS: tuple[View, ...] = (
    Rows(name="crossover", title="The length from which on an attention costs less than the baseline", by=_BY,
         quantities=("crossover",), always=("label", "compared"), plain=("crossover",), words=_WORDS, note=_READ),
    Dots(name="lengths", title="N* with its 95 % interval, of those that overtake the baseline at one length",
         quantity="crossover", y="label", panels="compared", log_x=True, where={"detail.answer": "crossing"},
         forms={"crossover": "count"}, words=_WORDS,
         note="From N* tokens on the attention costs less. What the others do, the table says."),
    Lines(name="ratios", title="Cost of the attention against the baseline; shaded: N* with its 95 % interval",
          x="tokens", quantities=("ratio",), series="label", panels="compared", log_x=True, level=1.0, span="crossover",
          words=_WORDS, note="Below 1 the attention costs less. A band around a line is the interval of each probe."),
    Lines(name="closing", title="The bracket around N* as it closes", x="step", quantities=("bracket",),
          series="label", panels="compared", words=_WORDS,
          note="Between which lengths N* lies in the first process, after each probe of the bisection; the line is "
               "their middle."),
)


class _Budget:
    """The seconds of the command, shared out: each task gets its part of what is left when it begins."""

    def __init__(self, seconds: float, weights: list[float]) -> None:
        self.seconds, self.weights = seconds, weights
        self._ends: float | None = None

    def begin(self, task: int) -> float:
        """The moment at which this task's part is over. The clock starts with the first task."""
        now = time.perf_counter()
        self._ends = now + self.seconds if self._ends is None else self._ends
        return now + max(0.0, self._ends - now) * self.weights[task] / sum(self.weights[task:])


def tasks(settings: Settings) -> list[Task]:
    """One task for each quantity, mode, dtype, head_dim and attention.

    Raises:
        UsageError: an unknown name, a bad value, or a range of lengths that holds no two.
    """
    import functools

    from softbench.case import Case
    from softbench.machine.device import find
    from softbench.measures import latency
    from softbench.studies.crossover.meters import Pair

    low, high = _range(settings)
    baseline, chosen = _sides(settings)
    quantities = parsing.choices(settings.quantities.split(","), COMPARED, "quantity")
    modes, kinds = parsing.modes(settings.mode), parsing.dtypes(settings.dtype)
    dims = parsing.counts(settings.head_dim, "--head-dim")
    device = find(settings.device)
    timing = latency.Settings(rep=settings.rep, warmup=settings.rep)
    known: dict[tuple[str, Case], float] = {}
    points = [(quantity, mode, dtype, dim, attention) for quantity in quantities for mode in modes for dtype in kinds
              for dim in dims for attention in chosen]
    budget = _Budget(settings.budget, [_WEIGHTS[point[0]] for point in points])
    pieces = []
    for number, (quantity, mode, dtype, dim, attention) in enumerate(points):
        shape = Shape(settings.batch, settings.heads, 1, 1, dim)
        pair = Pair(attention, baseline, Case(attention.spec, shape, dtype, device, mode, seed=settings.seed), timing,
                    known)
        name = (f"{quantity} {attention.spec.label} against {baseline.spec.label} {mode} {dtype} D={dim}"
                f" H={settings.heads} B={settings.batch} N={low}..{high} scan={settings.scan}"
                f" rounds={settings.rounds}..{settings.max_rounds} processes={settings.processes}"
                f" rep={settings.rep:g} margin={settings.margin:g}"
                f" resolution={settings.resolution:g} seed={settings.seed}")
        pieces.append(Task(name, functools.partial(_run, settings, quantity, pair, (low, high), budget, number)))
    return pieces


def _run(settings: Settings, quantity: str, pair: Pair, lengths: tuple[int, int], budget: _Budget,
         number: int) -> list[Finding]:
    import math

    from softbench.studies._over_n.grids import Grids
    from softbench.studies.crossover import answer as answers
    from softbench.studies.crossover.meters import meter
    from softbench.studies.crossover.search import Search, Terms

    baseline, ends = pair.baseline.spec.label, budget.begin(number)
    if ends <= time.perf_counter():
        return answers.not_begun(pair, quantity, baseline, settings.budget)
    terms = Terms(settings.scan, settings.rounds, settings.max_rounds,
                  math.log1p(settings.margin), 0.0 if quantity == "flops" else settings.resolution, settings.processes)
    search = Search(meter(quantity, pair), Grids(*lengths, pair.misfit), terms, lambda: ends - time.perf_counter())
    with _collected():
        search.run()
    return answers.findings(search, pair, quantity, baseline)


@contextmanager
def _collected() -> Iterator[None]:
    """Everything that lives now is left alone by the garbage collector, which each probe runs several times."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _range(settings: Settings) -> tuple[int, int]:
    low = parsing.count(settings.min_tokens, "--min-tokens")
    high = parsing.count(settings.max_tokens, "--max-tokens")
    if low == high:
        raise UsageError(f"crossover: --min-tokens and --max-tokens are both {low:,}, and one length has no crossing."
                         " Compare at one length with `softbench latency`.")
    if settings.rounds > settings.max_rounds:
        raise UsageError(f"crossover: --rounds {settings.rounds} is above --max-rounds {settings.max_rounds}. Raise"
                         " --max-rounds.")
    if low > high:
        raise UsageError(f"crossover: --min-tokens {low:,} is above --max-tokens {high:,}. Swap them.")
    return low, high


def _sides(settings: Settings) -> tuple[OneAttention, list[OneAttention]]:
    """The baseline and the attentions, loaded. Raises UsageError where they are not one and some others."""
    from softbench.contracts import attention as attentions
    from softbench.subjects import OneAttention

    def load(spec: AttentionSpec) -> OneAttention:
        subject = OneAttention(attentions.load(spec), spec)
        if spec.impl and spec.impl != "auto" and spec.impl not in subject.impls:
            raise UsageError(f"'{spec.label}': no such implementation. Valid: auto, {', '.join(subject.impls)}.")
        return subject

    if settings.baseline.strip() in ("", "none"):
        raise UsageError("crossover needs a baseline to overtake: name one, as in --baseline softmax.")
    named = parsing.attentions(settings.baseline, "--baseline")
    if len(named) != 1:
        raise UsageError(f"--baseline must be one attention, not '{settings.baseline}'.")
    baseline = load(named[0])
    labels = {_identity(baseline): baseline.spec.label}
    chosen = []
    for spec in parsing.attentions(settings.attn):
        subject = load(spec)
        if (same := labels.setdefault(_identity(subject), spec.label)) != spec.label or subject.spec == baseline.spec:
            role = "the baseline" if same == baseline.spec.label else f"the same attention as '{same}'"
            raise UsageError(f"--attn: '{spec.label}' is {role}. Leave it out.")
        chosen.append(subject)
    return baseline, chosen


def _identity(subject: OneAttention) -> str:
    return f"{subject.attention} {subject.options} {subject.spec.impl or 'auto'}"
