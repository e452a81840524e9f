"""crossover: the length N* from which on an attention costs less than the baseline, with its 95 % interval.

For latency, peak memory and FLOPs, and for each mode, dtype and head_dim: `scan` lengths evenly over log N find where
the sign of ln(cost of the attention / cost of the baseline) changes, and bisection narrows each such place
(`search.py`). Lengths are near-square grids on which both run (`_over_n/grids.py`).

- A comparison of latency is paired and interleaved: both are built and warmed in this process, rounds run in ABBA
  order, and rounds are added, doubling, until the t interval of their mean excludes a ratio of 1 or lies within
  `margin`.
- N* of latency is where the line that is fitted to the probes around the change is 0. They are measured again in
  further processes, `processes` in all, and its interval is Fieller's over these (`location.py`). Memory and FLOPs
  are exact at a length: their interval is the bracket.
- Where there is no such length the answer says so: always, never up to the longest length, the baseline out of memory
  first, several crossings, or inconclusive.

`budget` bounds the whole command. Each comparison gets its part of what is left; one that the budget cuts short reports
its bracket so far, and runs again with `--resume`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Task
from softbench.records.views import Dots, Lines, Rows, View
from softbench.studies.crossover.settings import Settings

QUANTITIES = (Quantity("crossover", "1", "derived", answers="overtaking"), Quantity("ratio", "1", "derived", "less"),
              Quantity("bracket", "1", "derived"))
SECTION = Section(place=2)
CHOICES = ("attn", "quantities", "mode", "dtype", "head_dim", "budget")
QUICK: Mapping[str, Any] = {"max_tokens": "2k", "scan": 4, "rounds": 3, "max_rounds": 6, "processes": 1, "budget": 60.0}


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


def tasks(settings: Settings) -> list[Task]:
    from softbench.studies.crossover import planning

    return planning.tasks(settings)
