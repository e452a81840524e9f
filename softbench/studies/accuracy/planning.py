"""Plans the runs of accuracy: for each task and attention, those that choose a learning rate and those scored."""

from __future__ import annotations

from functools import partial

from softbench import options, parsing
from softbench.case import AttentionSpec
from softbench.contracts import attention as attentions
from softbench.contracts.study import Task
from softbench.errors import UsageError
from softbench.studies.accuracy import conclusion, costs, learning
from softbench.studies.accuracy.learning import Subject
from softbench.studies.accuracy.settings import Settings


def tasks(settings: Settings) -> list[Task]:
    """The runs of all tasks, then what attentions cost, then a conclusion for each task.

    Raises:
        UsageError: an unknown name or a bad value in the settings.
    """
    if settings.width % settings.heads:
        raise UsageError(f"--width {settings.width} is not divided by --heads {settings.heads}.")
    problems = [learning.kept(spec) for spec in parsing.attentions(settings.task, "--task")]
    rates, specs = _rates(settings.lrs), _specs(settings)
    planned: list[Task] = []
    for problem in problems:
        subjects = [Subject(problem, spec, attentions.load(spec), settings) for spec in specs]
        for subject in subjects:
            planned += _runs(subject, rates)
        if settings.cost:
            planned += [Task(f"{problem.label} cost of {each.spec.label}", partial(costs.measured, each, subjects),
                             at=_at(each), alone=True) for each in subjects]
        planned.append(Task(f"{problem.label} conclusion", partial(conclusion.conclude, subjects), concludes=True))
    return planned


def _runs(subject: Subject, rates: list[float]) -> list[Task]:
    """One run for each learning rate, and one for each seed with the best of them."""
    name, settings = f"{subject.problem.label} {subject.spec.label}", subject.settings
    choosing = [Task(f"{name} lr={rate:g}", partial(learning.choose, subject, rate), at=_at(subject)) for rate in rates]
    needs = tuple(task.name for task in choosing)
    return choosing + [Task(f"{name} seed={seed}", partial(learning.score, subject, seed), needs=needs,
                            at=_at(subject) | {"lrs": rates})
                       for seed in range(settings.seed + 1, settings.seed + 1 + settings.seeds)]


def _at(subject: Subject) -> dict[str, object]:
    """All settings of the task and the attention, which their labels do not say in full."""
    return {"task": options.to_dict(subject.problem.settings), "options": options.to_dict(subject.attention.options),
            "recipe": subject.problem.recipe, "impl": subject.spec.impl or ""}


def _specs(settings: Settings) -> list[AttentionSpec]:
    """The attentions, the baseline first."""
    baseline = parsing.attentions(settings.baseline, "--baseline")
    if len(baseline) != 1:
        raise UsageError(f"--baseline must be one attention, not '{settings.baseline}'.")
    return baseline + [spec for spec in parsing.attentions(settings.attn) if spec.label != baseline[0].label]


def _rates(text: str) -> list[float]:
    try:
        rates = [float(rate) for rate in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < 10 for rate in rates) or len(set(rates)) < len(rates):
        raise UsageError(f"--lrs takes learning rates between 0 and 10, each once, as in 1e-3,3e-3; not '{text}'.")
    return rates
