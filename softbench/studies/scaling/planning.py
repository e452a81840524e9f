"""Plans the lengths that scaling measures, and the conclusions that it draws from them."""

from __future__ import annotations

from functools import partial

from softbench import parsing
from softbench.contracts.study import Task
from softbench.errors import UsageError
from softbench.measures import latency
from softbench.studies._over_n.setting import check
from softbench.studies.scaling.conclusion import Conclusion, Question
from softbench.studies.scaling.growth import FEWEST
from softbench.studies.scaling.lengths import Ladder, grid
from softbench.studies.scaling.settings import COSTS, Settings


def tasks(settings: Settings) -> list[Task]:
    """Plan one task for each length at each mode and dtype, then one that concludes for each attention.

    Raises:
        UsageError: an unknown name or a bad value, or too few lengths for a slope.
    """
    low, high = parsing.token_range(settings.min_tokens, settings.max_tokens)
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
    setting = check(settings)
    ladder = Ladder(setting, settings.batch, costs, latency.Settings(
        rep=settings.rep, warmup=settings.rep / 5, rounds=settings.rounds), settings.timeout)
    question = Question(costs, beyond, limit, settings.verify, settings.batch, settings.timeout)
    labels = ",".join(subject.spec.label for subject in setting.subjects)
    how = f"rep={settings.rep:g}x{settings.rounds} timeout={settings.timeout:g} of {','.join(costs)}"
    words = (f"{lengths[0]}..{lengths[-1]}/{settings.per_doubling} B={settings.batch} limit={settings.memory_limit}"
             f" beyond={settings.extrapolate}{' verify' if settings.verify else ''}")
    measured = [Task(f"N={n} B={settings.batch} {setting.name(point)} {labels} {how}",
                     partial(ladder.measure, point, n), at=setting.at(point, *setting.subjects))
                for point in setting.points for n in lengths]
    concluded = [Task(f"growth of {subject.spec.label} {setting.name(point)} {words} {how}",
                      Conclusion(setting, subject, point, question).run, concludes=True,
                      at=setting.at(point, subject) | {"limit": limit})
                 for point in setting.points for subject in setting.subjects]
    return measured + concluded
