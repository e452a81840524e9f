"""Plans the points of approx-error: attentions, sizes, inputs and lengths, and the searches for a target."""

from __future__ import annotations

from functools import partial

from softbench import parsing
from softbench.bench.costs import Costs
from softbench.bench.sweep import Job
from softbench.contracts.study import Task
from softbench.studies.approx_error import approximation, compared
from softbench.studies.approx_error.compared import Point
from softbench.studies.approx_error.settings import Settings
from softbench.studies.approx_error.tokens import check, shape
from softbench.subjects import OneAttention


def tasks(settings: Settings) -> list[Task]:
    """One task for each attention, m, family and N; then the ways to choose landmarks, and the search for a target.

    Raises:
        UsageError: an unknown name or a bad value in the settings.
    """
    families = list(dict.fromkeys(name.strip() for name in settings.inputs.split(",")))
    for family in families:
        check(family)
    specs = parsing.attentions(settings.attn)
    sizes = parsing.counts(settings.sizes, "sizes")
    places = [(family, shape(family, tokens, settings.heads, settings.head_dim))
              for tokens in parsing.counts(settings.tokens, "tokens") for family in families]
    swept = compared.swept(specs, sizes)
    exact = compared.exact(swept) if settings.cost else []
    sampled = compared.sampled(specs, sorted(sizes)[len(sizes) // 2], settings.samplings)
    searched = compared.searched(specs) if settings.target_error else []
    points = [Point(subject, *place, settings) for place in places for subject in [*exact, *swept, *sampled]]
    targets = [Point(subject, *place, settings) for place in places for subject in searched]
    costs = Costs([Job(p.case, OneAttention(p.subject.attention)) for p in points]) if settings.cost else None
    return ([Task(p.name, partial(approximation.run, p, costs), at=p.at) for p in points]
            + [Task(p.name, partial(approximation.search, p), at=p.at) for p in targets])
