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
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from softbench import dtypes, parsing
from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Finding, Task
from softbench.errors import UsageError
from softbench.options import option
from softbench.records.views import Dots, Rows, View

QUANTITIES = (
    Quantity("largest_tokens", "1", "derived", "more"), Quantity("largest_batch", "1", "derived", "more"),
    *(Quantity(f"memory_{where}", "B", "derived", "less") for where in ("there", "tried")),
    *(Quantity(f"latency_{where}", "s", "time", "less") for where in ("there", "tried")),
)
SECTION = Section(place=4)
QUICK: Mapping[str, Any] = {"max_tokens": "16k", "precision": 0.25, "rep": 50.0}


@dataclass(frozen=True)
class Settings:
    attn: str = option("softmax,soft,performer", "attentions, each name[:option=value...] or a .py file")
    memory: str = option("", "memory that one call may hold, inputs and parameters included, as 16GiB or 2GB")
    latency: str = option("", "time that one call may take, as 50ms, 1.5s or 200us")
    vary: Literal["tokens", "batch"] = option("tokens", "tokens: the longest input; batch: the largest batch")
    tokens: str = option("4k", "tokens of each sample, where the batch varies; k means 1,024")
    batch: int = option(1, "batch size B, where the tokens vary", low=1, high=1 << 20)
    min_tokens: str = option("64", "the shortest length that is tried")
    max_tokens: str = option("1m", "the longest length that is tried")
    max_batch: int = option(4096, "the largest batch that is tried", low=1, high=1 << 20)
    precision: float = option(0.05, "share by which the answer and the next size may differ", low=0.001, high=4)
    mode: str = option("forward", "forward, backward, training (which is forward_backward), comma-separated")
    dtype: str = option(dtypes.FLOAT32, f"{dtypes.LISTED}, comma-separated")
    heads: int = option(8, "heads H", low=1, high=1024)
    head_dim: int = option(64, "size of a head D", low=1, high=4096)
    device: str = option("auto", "cpu, cuda, cuda:1; auto takes a GPU if there is one")
    impl: str = option("auto", "implementation; auto takes the first of each attention that runs here")
    rep: float = option(200.0, "ms of timed work for each trial of latency", unit="ms", low=1, high=3_600_000)
    timeout: float = option(60.0, "seconds that a trial may take", unit="s", low=0.1, high=1e6)
    seed: int = option(0, "seed of inputs and parameters", low=0, high=2**31 - 1)


def tasks(settings: Settings) -> list[Task]:
    """One task for each attention, mode and dtype.

    Raises:
        UsageError: no budget, an unknown name or a bad value, or sizes that end before they begin.
    """
    from softbench.measures import latency
    from softbench.studies._over_n import budget as _budget
    from softbench.studies._over_n import setting as _setting
    from softbench.studies.fit.fitting import Question

    budget = _budget.parse(settings.memory, settings.latency)
    tokens = parsing.count(settings.tokens, "--tokens")
    low, high = (parsing.count(settings.min_tokens, "--min-tokens"), parsing.count(settings.max_tokens, "--max-tokens"))
    if settings.vary == "batch":
        low, high = 1, settings.max_batch
    elif low > high:
        raise UsageError(f"--min-tokens {low:,} is above --max-tokens {high:,}. Swap them.")
    other = settings.batch if settings.vary == "tokens" else tokens
    setting = _setting.check(settings)
    timing = latency.Settings(rep=settings.rep, warmup=settings.rep / 5, rounds=1)
    question = Question(budget, settings.vary, low, high, other, settings.precision, timing, settings.timeout)
    words = (f"{settings.vary} {low}..{high} beside {other} memory={settings.memory} latency={settings.latency}"
             f" precision={settings.precision:g} rep={settings.rep:g} timeout={settings.timeout:g}")
    return [Task(f"{subject.spec.label} {setting.name(point)} {words}",
                 partial(_run, setting, subject, point, question))
            for point in setting.points for subject in setting.subjects]


def _run(*arguments: Any) -> list[Finding]:
    from softbench.studies.fit.fitting import Fitting

    return Fitting(*arguments).run()


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
