"""scaling: how latency and memory really grow with N, beside the O(.) that each attention claims.

Latency (interleaved over the attentions at each length) and peak memory are measured on lengths from `min_tokens` to
`max_tokens`. For each attention, mode and dtype a curve is fitted to each cost in log-log: one to three straight
pieces, or an overhead below a power (`_growth`). Its last exponent stands beside the claim, with a 95 % interval:

    claims O(N), measured N^1.04 [1.01, 1.07] above 4,096: nearly holds

"holds": the interval contains the claimed exponent (of N log N, 1 + 1 / ln N in the middle of the piece); "nearly
holds": its nearer end is at most 0.1 away; "undecided": it is wider than 0.6. The exponent is that of the lengths
measured: a regime that begins beyond them is not seen, and a claim is about work, so that memory is only asked whether
it grows faster.

From the memory follows the length at which it runs out, which `verify` checks in child processes. `extrapolate` gives
costs beyond the lengths measured; they are marked wherever they appear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from softbench import dtypes, parsing
from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Task
from softbench.errors import UsageError
from softbench.options import option
from softbench.records.views import Fitted, Rows, View

QUANTITIES = (
    Quantity("exponent", "1", "derived", "less"),
    Quantity("latency", "s", "time", "less", answers="fastest"), Quantity("peak_memory", "B", "exact", "less"),
    Quantity("memory_limit", "B", "derived"), Quantity("oom_tokens", "1", "derived", "more"),
    Quantity("trial_memory", "B", "derived", "less"), Quantity("memory_extrapolated", "B", "derived", "less"),
    Quantity("latency_extrapolated", "s", "derived", "less"),
)
SECTION = Section(place=3)
COSTS = ("latency", "memory")
QUICK: Mapping[str, Any] = {"min_tokens": "128", "max_tokens": "2k", "per_doubling": 1, "rep": 50.0}


@dataclass(frozen=True)
class Settings:
    attn: str = option("softmax,soft,performer", "attentions, each name[:option=value...] or a .py file")
    min_tokens: str = option("64", "the shortest length; k means 1,024")
    max_tokens: str = option("16k", "the longest length")
    per_doubling: Literal[1, 2, 4] = option(2, "lengths from one to its double")
    costs: str = option("latency,memory", "latency, memory or both")
    mode: str = option("forward", "forward, backward, training (which is forward_backward), comma-separated")
    dtype: str = option(dtypes.FLOAT32, f"{dtypes.LISTED}, comma-separated")
    batch: int = option(1, "batch size B", low=1, high=1 << 20)
    heads: int = option(8, "heads H", low=1, high=1024)
    head_dim: int = option(64, "size of a head D", low=1, high=4096)
    device: str = option("auto", "cpu, cuda, cuda:1; auto takes a GPU if there is one")
    impl: str = option("auto", "implementation; auto takes the first of each attention that runs here")
    rep: float = option(200.0, "ms of timed work for each case", unit="ms", low=1, high=3_600_000)
    rounds: int = option(5, "rounds that the cases of a length are interleaved over", low=1, high=1000)
    timeout: float = option(60.0, "seconds that a case may take; longer lengths are then not run", unit="s",
                            low=0.1, high=1e6)
    extrapolate: str = option("", "lengths beyond the longest, comma-separated, to extrapolate to")
    memory_limit: str = option("", "memory for the length at which it runs out, as 16GiB; by default what is free")
    verify: bool = option(False, "run a call below and above that length in child processes")
    seed: int = option(0, "seed of inputs and parameters", low=0, high=2**31 - 1)


def tasks(settings: Settings) -> list[Task]:
    """One task for each length at each mode and dtype, then one that concludes for each attention.

    Raises:
        UsageError: an unknown name or a bad value, or too few lengths for a slope.
    """
    from softbench.measures import latency
    from softbench.studies._over_n import setting as _setting
    from softbench.studies.scaling.conclusion import Conclusion, Question
    from softbench.studies.scaling.growth import FEWEST
    from softbench.studies.scaling.lengths import Ladder, grid

    low = parsing.count(settings.min_tokens, "--min-tokens")
    high = parsing.count(settings.max_tokens, "--max-tokens")
    if low > high:
        raise UsageError(f"--min-tokens {low:,} is above --max-tokens {high:,}. Swap them.")
    lengths = grid(low, high, settings.per_doubling)
    if len(lengths) < FEWEST:
        shown = ", ".join(f"{n:,}" for n in lengths) or "none"
        raise UsageError(f"A slope needs at least {FEWEST} lengths, and from {low:,} to {high:,} there are"
                         f" {len(lengths)} ({shown}): lower --min-tokens or raise --max-tokens.")
    costs = parsing.choices(settings.costs.split(","), COSTS, "cost")
    beyond = parsing.counts(settings.extrapolate, "--extrapolate") if settings.extrapolate else []
    if near := [n for n in beyond if n <= lengths[-1]]:
        raise UsageError(f"--extrapolate: {near[0]:,} is within the lengths that are measured (up to"
                         f" {lengths[-1]:,}). Give longer ones, or none.")
    limit = parsing.memory(settings.memory_limit, "--memory-limit") if settings.memory_limit else None
    if "memory" not in costs and (settings.verify or limit):
        raise UsageError(f"{'--verify' if settings.verify else '--memory-limit'} needs memory among --costs.")
    setting = _setting.check(settings)
    ladder = Ladder(setting, settings.batch, costs, latency.Settings(
        rep=settings.rep, warmup=settings.rep / 5, rounds=settings.rounds), settings.timeout)
    question = Question(costs, beyond, limit, settings.verify, settings.batch, settings.timeout)
    labels = ",".join(subject.spec.label for subject in setting.subjects)
    how = f"rep={settings.rep:g}x{settings.rounds} timeout={settings.timeout:g} of {','.join(costs)}"
    words = (f"{lengths[0]}..{lengths[-1]}/{settings.per_doubling} B={settings.batch} limit={settings.memory_limit}"
             f" beyond={settings.extrapolate}{' verify' if settings.verify else ''}")
    measured = [Task(f"N={n} B={settings.batch} {setting.name(point)} {labels} {how}",
                     partial(ladder.measure, point, n)) for point in setting.points for n in lengths]
    concluded = [Task(f"growth of {subject.spec.label} {setting.name(point)} {words} {how}",
                      Conclusion(setting, subject, point, question).run, concludes=True)
                 for point in setting.points for subject in setting.subjects]
    return measured + concluded


_WORDS = {
    "label": "attention", "detail.limited_by": "limit", "oom_tokens": "memory ends at N (predicted)",
    "peak_memory": "memory",
    "latency_extrapolated": "latency (extrapolated)", "memory_extrapolated": "memory (extrapolated)",
    "exponent": "measured",
}
_DRAWN = "Marks: measured. Lines: the fit, a tick where its exponent changes; dashed and hollow: extrapolated."

VIEWS: tuple[View, ...] = (
    Rows(name="growth", title="How costs grow with N, beside what each attention claims", words=_WORDS,
         by=("mode", "dtype", "cost", "label", "detail.claims", "detail.verdict"),
         headings=("mode", "dtype", "cost"), always=("label", "detail.claims", "detail.verdict"),
         quantities=("exponent",), plain=("exponent",),
         note="measured: the last exponent of the fit and its 95 % interval. verdict: whether it agrees with the claim,"
              " which is about work; of memory, whether it grows faster. notes: all pieces of the fit."),
    Rows(name="limits", title="Where memory runs out: predicted from the fit to inputs, parameters and peak",
         by=("mode", "dtype", "label", "detail.limited_by", "detail.verified"), headings=("mode", "dtype"),
         always=("label", "detail.limited_by", "detail.verified"),
         quantities=("memory_limit", "oom_tokens"), forms={"oom_tokens": "about"}, words=_WORDS,
         note="The end is no measurement: it supposes that growth goes on as up to the longest length measured, and the"
              " notes say how far beyond it lies. verified: one call a tenth below and one a tenth above, in child"
              " processes with that limit."),
    Rows(name="beyond", title="Extrapolated, not measured: costs if growth goes on as at the longest lengths",
         by=("mode", "dtype", "tokens", "label"), headings=("mode", "dtype"), always=("tokens", "label"), words=_WORDS,
         quantities=("latency_extrapolated", "memory_extrapolated")),
    Rows(name="costs", title="What was measured", by=("mode", "dtype", "tokens", "label"),
         headings=("mode", "dtype"), always=("tokens", "label"), quantities=("latency", "peak_memory"), words=_WORDS),
    Fitted(name="latency", title="Latency against N: measured, and the fitted pieces", quantity="latency",
           fitted="exponent", cost="latency", beyond="latency_extrapolated", series="label", words=_WORDS, note=_DRAWN),
    Fitted(name="memory", title="Peak memory against N: measured, and the fitted pieces", quantity="peak_memory",
           fitted="exponent", cost="memory", beyond="memory_extrapolated", series="label", words=_WORDS, note=_DRAWN),
)
