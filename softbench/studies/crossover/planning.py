"""Plans the comparisons of crossover, each with its part of the budget."""

from __future__ import annotations

import functools
import gc
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from softbench import parsing
from softbench.case import AttentionSpec, Case, Shape
from softbench.contracts import attention as attentions
from softbench.contracts.study import Finding, Task
from softbench.errors import UsageError
from softbench.machine.device import find
from softbench.measures import latency
from softbench.studies._over_n.grids import Grids
from softbench.studies.crossover import answer as answers
from softbench.studies.crossover.meters import Pair, meter
from softbench.studies.crossover.search import Search, Terms
from softbench.studies.crossover.settings import COMPARED, Settings
from softbench.subjects import OneAttention

_WEIGHTS = {"latency": 8.0, "memory": 2.0, "flops": 0.5}  # parts of the budget


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
    """Plan one task for each quantity, mode, dtype, head_dim and attention.

    Raises:
        UsageError: an unknown name, a bad value, or a range of lengths that holds no two.
    """
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
        shape = Shape(settings.batch, settings.heads, 1, 1, dim, settings.causal)
        pair = Pair(attention, baseline, Case(attention.spec, shape, dtype, device, mode, seed=settings.seed), timing,
                    known)
        name = (f"{quantity} {attention.spec.label} against {baseline.spec.label}{' causal' * settings.causal} {mode}"
                f" {dtype} D={dim}"
                f" H={settings.heads} B={settings.batch} N={low}..{high} scan={settings.scan}"
                f" rounds={settings.rounds}..{settings.max_rounds} processes={settings.processes}"
                f" rep={settings.rep:g} margin={settings.margin:g}"
                f" resolution={settings.resolution:g} seed={settings.seed}")
        sides = [(side.spec.label, side.options) for side in (attention, baseline)]
        pieces.append(Task(name, functools.partial(_run, settings, quantity, pair, (low, high), budget, number),
                           at={"attentions": sides}))
    return pieces


def _run(settings: Settings, quantity: str, pair: Pair, lengths: tuple[int, int], budget: _Budget,
         number: int) -> list[Finding]:
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
    low, high = parsing.token_range(settings.min_tokens, settings.max_tokens)
    if low == high:
        raise UsageError(f"crossover: --min-tokens and --max-tokens are both {low:,}, and one length has no crossing."
                         " Compare at one length with `softbench latency`.")
    if settings.rounds > settings.max_rounds:
        raise UsageError(f"crossover: --rounds {settings.rounds} is above --max-rounds {settings.max_rounds}. Raise"
                         " --max-rounds.")
    return low, high


def _sides(settings: Settings) -> tuple[OneAttention, list[OneAttention]]:
    """The baseline and the attentions, loaded. Raises UsageError where they are not one and some others."""
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
