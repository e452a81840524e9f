"""scaling: how latency and memory really grow with N, beside the O(.) that each attention claims.

Latency (interleaved over the attentions at each length) and peak memory are measured on lengths from `min_tokens` to
`max_tokens`. For each attention, mode and dtype a curve is fitted to each cost in log-log: one to three straight
pieces, or an overhead below a power (`growth.py`). Its last exponent stands beside the claim, with a 95 % interval:

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
from typing import Any

from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Task
from softbench.records.views import Fitted, Rows, View
from softbench.studies.scaling.settings import Settings

QUANTITIES = (
    Quantity("exponent", "1", "derived", "less"),
    Quantity("latency", "s", "time", "less", answers="fastest"), Quantity("peak_memory", "B", "exact", "less"),
    Quantity("memory_limit", "B", "derived"), Quantity("oom_tokens", "1", "derived", "more"),
    Quantity("trial_memory", "B", "derived", "less"), Quantity("memory_extrapolated", "B", "derived", "less"),
    Quantity("latency_extrapolated", "s", "derived", "less"),
)
SECTION = Section(place=3)
CHOICES = ("attn", "min_tokens", "max_tokens", "per_doubling", "mode", "dtype", "extrapolate", "memory_limit", "verify")
QUICK: Mapping[str, Any] = {"min_tokens": "128", "max_tokens": "2k", "per_doubling": 1, "rep": 50.0}


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


def tasks(settings: Settings) -> list[Task]:
    from softbench.studies.scaling import planning

    return planning.tasks(settings)
