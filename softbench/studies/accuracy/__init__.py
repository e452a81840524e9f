"""accuracy: how well each attention learns a task, with seeds and intervals, beside chance, the baseline and its cost.

The same encoder with each attention learns the same samples in the same number of steps. Of each attention, one run for
each of `lrs` is scored on validation samples; with the best of these learning rates, `seeds` further runs begin with
other weights and another order, and are scored once on test samples that nothing was chosen by.

    budget         the same number of steps for all, or, where it is given, the same seconds of training: every run then
                   tries out first how long its steps take, and makes as many as fit, with a schedule of that length
    accuracy       mean over seeds of the share of right answers on test samples, with its 95 % t interval; a run that
                   diverged counts as a guess; where all did, there is neither accuracy nor verdict
    difference     mean over seeds of the accuracy less the baseline's with the same seed, with its interval
    verdict        better, worse, same or inconclusive, by the rule of `softbench compare` with `margin` in accuracy;
                   what is inconclusive gets up to `max_seeds`; none where the baseline has not learned the task: its
                   interval reaches down to what rules without attention reach, and nothing follows from the others; of
                   one seed, the value itself
    rules          guessing, the most frequent label, one token, a count of tokens: `softbench/models/trivial.py`
    latency, peak_memory    of one forward of the attention at the task's shape, batch 1, on this machine

What a small task says of recall or of a mixture of pixels it says at this size and budget, and of no other task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softbench.contracts.quantities import Quantity, Section
from softbench.contracts.study import Task
from softbench.records.views import Dots, Lines, Rows, Scatter, View
from softbench.studies.accuracy.settings import Settings

QUANTITIES = (
    Quantity("accuracy", "1", "seeded", "more"), Quantity("difference", "1", "seeded", "more"),
    *(Quantity(name, "1", "seeded", "more") for name in ("test_accuracy", "val_accuracy", "curve")),
    Quantity("error_rate", "1", "seeded", "less"), Quantity("learning_rate", "1", "seeded"),
    Quantity("parameters", "1", "exact", "less", counts="parameters"),
    Quantity("train_time", "s", "time", "less"), Quantity("latency", "s", "time", "less"),
    Quantity("peak_memory", "B", "exact", "less"),
)
SECTION = Section("Accuracy", place=0)
GATED = False
CHOICES = ("task", "attn", "baseline", "lrs", "seeds", "max_seeds", "margin", "cost", "jobs")
QUICK: Mapping[str, Any] = {
    "task": "mqar:tokens=16:pairs=2:vocab=16:train=6400:val=200:test=400", "attn": "linear", "lrs": "3e-3", "seeds": 2,
    "width": 32, "points": 4, "epochs": 2,
}

_WORDS = {"label": "attention", "data": "task", "detail.verdict": "verdict", "size": "m", "peak_memory": "memory",
          "train_time": "training", "val_accuracy": "validation", "test_accuracy": "test", "error_rate": "error",
          "learning_rate": "rate", "curve": "accuracy", "lr": "learning rate"}
_ANSWER = {"part": "answer"}

VIEWS: tuple[View, ...] = (
    Rows(name="answers", title="Accuracy on test samples, beside rules without attention and cost",
         by=("data", "label", "detail.verdict"), headings=("data",), always=("label", "detail.verdict"),
         where={"part": ("answer", "rule")}, words=_WORDS,
         quantities=("accuracy", "difference", "learning_rate", "parameters", "train_time", "latency", "peak_memory"),
         note="Means over seeds with 95 % t intervals. difference: to the baseline, seed by seed. rate: the learning"
              " rate chosen on validation samples. training: seconds of one run. latency, memory: of one forward of the"
              " attention at the task's shape."),
    Rows(name="runs", title="Every run, scored on test samples", by=("data", "label", "seed"),
         headings=("data", "label"), always=("seed",), where={"part": "run"}, words=_WORDS,
         quantities=("test_accuracy", "train_time")),
    Rows(name="rates", title="Runs that chose a learning rate, scored on validation samples",
         by=("data", "label", "lr"), headings=("data",), always=("label", "lr"), where={"part": "rate"}, words=_WORDS,
         quantities=("val_accuracy",)),
    Scatter(name="error_by_time", title="Share of wrong answers by time of one forward of the attention", x="latency",
            y="error_rate", series="label", panels="data", log_y=False, where=_ANSWER, words=_WORDS,
            note="Both less is better: attentions on the line are beaten by none in both."),
    Dots(name="accuracies", title="Accuracy on test samples, with 95 % intervals", quantity="accuracy", y="label",
         panels="data", where={"part": ("answer", "rule")}, words=_WORDS),
    Lines(name="curves", title="Accuracy on validation samples while learning, mean over seeds", x="steps",
          quantities=("curve",), series="label", panels="data", log_y=False, where={"part": "curve"}, words=_WORDS),
    Lines(name="accuracy_by_size", title="Accuracy on test samples against m", x="size", quantities=("accuracy",),
          series="attention", panels="data", log_x=True, log_y=False, where=_ANSWER, words=_WORDS),
)


def tasks(settings: Settings) -> list[Task]:
    from softbench.studies.accuracy import planning

    return planning.tasks(settings)
