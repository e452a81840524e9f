"""Plans the runs of accuracy: for each task and attention, those that choose a learning rate and those scored."""

from __future__ import annotations

import itertools
from functools import partial

from softbench import options, parsing
from softbench.case import AttentionSpec
from softbench.contracts import attention as attentions
from softbench.contracts import task as contract
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
    if settings.budget and settings.jobs > 1:
        raise UsageError("--budget counts seconds, which runs beside each other take from one another: give --jobs 1.")
    problems = [learning.kept(spec) for spec in parsing.attentions(settings.task, "--task")]
    rates, specs = _rates(settings.lrs), _specs(settings)
    planned: list[Task] = []
    for problem in problems:
        subjects = [Subject(problem, spec, attentions.load(spec), settings) for spec in specs]
        choosing = {subject.spec.label: [_name(subject, f"lr={rate:g}") for rate in rates] for subject in subjects}
        rule = {key: getattr(settings, key) for key in ("margin", "seeds", "max_seeds")}
        rule |= {"attentions": [spec.label for spec in specs]}
        samples = {"samples": _read(problem)}
        at = {subject.spec.label: _at(subject) | samples for subject in subjects}
        for subject in subjects:
            planned += [Task(name, partial(learning.choose, subject, rate), at=at[subject.spec.label])
                        for name, rate in zip(choosing[subject.spec.label], rates, strict=True)]
        runs: list[Task] = []
        for seeds in _looks(settings):
            before = tuple(task.name for task in runs)
            more = {"lrs": rates} | ({"rule": rule} if before else {})  # who gets a further seed follows from the rule
            runs += [Task(_name(subject, f"seed={seed}"), partial(conclusion.score, subject, subjects, seed),
                          needs=(*choosing[subject.spec.label], *before), at=at[subject.spec.label] | more)
                     for subject in subjects for seed in seeds]
        planned += runs
        if settings.cost:
            planned += [Task(f"{problem.label} cost of {each.spec.label}", partial(costs.measured, each, subjects),
                             at=at[each.spec.label], alone=True) for each in subjects]
        planned.append(Task(f"{problem.label} conclusion", partial(conclusion.conclude, subjects), concludes=True,
                            at=at[specs[0].label] | {"rule": rule | {"cost": settings.cost}}))
    return planned


def _looks(settings: Settings) -> list[range]:
    """The seeds of each look at the verdicts: the first of all attentions, others of those that are inconclusive."""
    first, counts = settings.seed + 1, [settings.seeds]
    while counts[-1] < settings.max_seeds:
        counts.append(min(2 * counts[-1], settings.max_seeds))
    return [range(first + low, first + high) for low, high in itertools.pairwise([0, *counts])]


def _name(subject: Subject, what: str) -> str:
    return f"{subject.problem.label} {subject.spec.label} {what}"


def _at(subject: Subject) -> dict[str, object]:
    """All settings of the task and the attention, which their labels do not say in full."""
    return {"task": options.to_dict(subject.problem.settings), "options": options.to_dict(subject.attention.options),
            "recipe": subject.problem.recipe, "impl": subject.spec.impl or ""}


def _read(problem: contract.Task) -> dict[str, str]:
    """Digests of the samples of a task that reads files of the user's, which may come to hold others."""
    if not getattr(problem.settings, "data", ""):
        return {}
    return {split: problem.open(split).digest() for split in contract.SPLITS}


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
