"""fit: the longest input, or the largest batch, that each attention can have within a budget of memory and latency.

Each size is tried in a child process of its own: under the budget of memory, one call with its inputs and parameters
either fits or runs out of memory; then, without that limit, its median latency is taken as `softbench latency` takes
it, and compared with the budget. Sizes grow fourfold from the smallest until one does not fit, and bisection on log N
(or the logarithm of the batch) narrows the rest to `precision`. Lengths are near-square grids of tokens that the
attention can run on.

The answer is the largest size that fitted, and what binds: `memory`, `latency`, `this machine's memory` where that is
less than the budget, or `the time of a trial` where a trial took longer than `timeout`. Memory is what the call holds
beyond a process that has run a small case of the same kind: inputs, parameters, temporaries, what is saved for the
backward, and what libraries take. A size at the edge may fit in one run and not in the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Task
from softbench.records.views import Dots, Rows, View
from softbench.studies.fit.settings import Settings

QUANTITIES = (
    Quantity("largest_tokens", "1", "derived", "more"), Quantity("largest_batch", "1", "derived", "more"),
    *(Quantity(f"memory_{where}", "B", "derived", "less") for where in ("there", "tried")),
    *(Quantity(f"latency_{where}", "s", "time", "less") for where in ("there", "tried")),
)
SECTION = Section(place=4)
CHOICES = ("attn", "mode", "dtype")
QUICK: Mapping[str, Any] = {"max_tokens": "16k", "precision": 0.25, "rep": 50.0}


_WORDS = {
    "label": "attention", "largest_tokens": "largest N", "largest_batch": "largest batch", "detail.binds": "what binds",
    "memory_there": "memory there", "latency_there": "latency there", "memory_tried": "memory",
    "latency_tried": "latency", "memory_budget": "budget of memory", "latency_budget": "budget of latency",
    "tokens_each": "tokens of each", "detail.fits": "fits", "vary": "varied:",
}
_ANSWER, _TRIAL = {"part": "answer"}, {"part": "trial"}
_FORMS = {"largest_tokens": "count", "largest_batch": "count"}

VIEWS: tuple[View, ...] = (
    Rows(name="answers", title="The largest size within the budget", by=("mode", "dtype", "label", "detail.binds"),
         headings=("mode", "dtype"), always=("label", "detail.binds"), where=_ANSWER, words=_WORDS, forms=_FORMS,
         quantities=("largest_tokens", "largest_batch", "memory_there", "latency_there"),
         note="what binds: what the next larger size that was tried exceeds. there: of one call at the largest size."),
    Rows(name="trials", title="The sizes that were tried", by=("mode", "dtype", "label", "batch", "tokens"),
         headings=("mode", "dtype", "label"), always=("label", "batch", "tokens"), where=_TRIAL, words=_WORDS,
         quantities=("memory_tried", "latency_tried")),
    *(Dots(name=name, title=f"The {words} within budget", quantity=quantity, y="label",
           series="detail.binds", log_x=True, where=_ANSWER, words=_WORDS, forms=_FORMS)
      for name, words, quantity in (("tokens", "longest input", "largest_tokens"),
                                    ("batch", "largest batch", "largest_batch"))),
)


def tasks(settings: Settings) -> list[Task]:
    from softbench.studies.fit import fitting

    return fitting.tasks(settings)
