"""A session: a configuration and the name of a measure or study become a sweep or study that is ready to run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from softbench import case as cases
from softbench import config as configuration
from softbench import inputs, options, parsing, plugins, subjects
from softbench.bench.beside import SideBySide
from softbench.bench.isolate import Isolated
from softbench.bench.study import Study
from softbench.bench.sweep import Job, Sweep
from softbench.case import Shape, Spec
from softbench.config import Config, Process, SweepConfig
from softbench.contracts import measure as measures
from softbench.contracts import study as studies
from softbench.errors import PluginError, UsageError
from softbench.machine import device
from softbench.machine import environment as env
from softbench.machine.cores import usable_cores
from softbench.processes import setup
from softbench.subjects.workload import Subject

BASELINE, NO_BASELINE = "softmax", "none"
_QUICK_TOKENS = "256,1k,4k"


def configure(name: str, flags: Mapping[str, Mapping[str, Any]], *, path: Path | None = None,
              assignments: Sequence[str] = (), quick: bool = False) -> Config:
    """The configuration of a measure or study: built-in defaults, the file, assignments, flags.

    Args:
        quick: a smaller programme in place of what the file says; what is given as a flag wins. Models keep their
            images.
    """
    config = configuration.load(path, assignments, flags)
    if not quick:
        return config
    kind, module = ("measures", measures.load(name)) if name in plugins.names("measures") else (
        "studies", studies.load(name))
    tables = getattr(config, kind)
    own = tables.get(name, {}) | getattr(module, "QUICK", {}) | flags.get(name, {})
    sweep = config.sweep
    if not sweep.model and not {"tokens", "grid"} & flags.get("sweep", {}).keys():
        sweep = replace(sweep, tokens=_QUICK_TOKENS, grid="")
    return replace(config, **{kind: tables | {name: own}}, sweep=sweep)


def start(config: Config, measure: str, *, command: str = "", memory_limit: int | None = None, **terms: Any) -> Sweep:
    """Set this process up as the configuration says, and lay a sweep out that runs in it.

    Raises:
        UsageError: an unknown name or a bad value anywhere in the configuration.
    """
    state = setup.apply(_limited(config.process, memory_limit))
    sweep = lay_out(config, measure, memory_limit=memory_limit, **terms)
    return replace(sweep, environment=env.take(state, sweep.device, command))


def start_study(config: Config, name: str, *, command: str = "") -> Study:
    """Set this process up as the configuration says, and lay a study out that runs in it.

    Raises:
        UsageError: a bad setting. PluginError: no task, two of one name, or one that needs what is none before it.
    """
    state = setup.apply(config.process)  # before a study imports, or computes to lay itself out
    study = lay_out_study(config, name)
    if isinstance(study, SideBySide):
        state = setup.apply(study.process)
    return replace(study, environment=env.take(state, study.device, command))


def lay_out(config: Config, name: str, *, isolate: bool = False, memory_limit: int | None = None,
            timeout: float | None = None, check_convergence: bool = False) -> Sweep:
    """The whole sweep, every name and value checked; changes nothing in this process.

    Args:
        isolate: run each case in a child process, which may hold `memory_limit` bytes.
        timeout: seconds that a case may take.
    """
    if memory_limit is not None and not isolate:
        raise UsageError("--memory-limit works on child processes: add --isolate.")
    module = measures.load(name)
    settings = options.parse(module.Settings, config.measures.get(name, {}), f"[{name}]")
    jobs = plan(config, getattr(module, "MODES", cases.MODES))
    sweep = Sweep(name, module, settings, jobs, timeout, check_convergence, device=jobs[0].case.device)
    return Isolated(**vars(sweep), process=_limited(config.process, memory_limit),
                    memory_limit=memory_limit) if isolate else sweep


def lay_out_study(config: Config, name: str) -> Study:
    """The study cut into tasks, every setting checked; changes nothing in this process."""
    module = studies.load(name)
    settings = options.parse(module.Settings, config.studies.get(name, {}), f"[{name}]")
    tasks = list(module.tasks(settings))
    names = [task.name for task in tasks]
    if not tasks or len(set(names)) < len(names):
        twice = [f"two tasks named '{task}'" for task in names if names.count(task) > 1]
        raise PluginError(f"Study '{name}' has {twice[0] if twice else 'no task'} with these settings.")
    for i, task in enumerate(tasks):
        if unmet := set(task.needs).difference(names[:i]):
            raise PluginError(f"Study '{name}': task '{task.name}' needs '{min(unmet)}', which is no task before it.")
    laid, where = (name, module, settings, tasks), device.find(getattr(settings, "device", device.CPU))
    jobs = getattr(settings, "jobs", 1)
    if jobs == 1:
        return Study(*laid, device=where)
    share = max(1, (config.process.threads or usable_cores()) // jobs)
    return SideBySide(*laid, device=where, process=replace(config.process, threads=share))


def _limited(process: Process, memory_limit: int | None) -> Process:
    """Set up a process that may hold so many bytes as `isolate.py` says."""
    return replace(process, malloc="default") if memory_limit else process


def plan(config: Config, modes: tuple[str, ...] = cases.MODES) -> list[Job]:
    """The jobs that a configuration asks for, cases of one point side by side, the baseline first."""
    sweep = config.sweep
    chosen = {spec: subjects.load(spec, config.attention) for spec in specs(sweep)}
    check_distinct(list(chosen.values()), sweep.impl)
    _check_impl(sweep.impl, list(chosen.values()))
    inputs.check(sweep.inputs)
    if sweep.model and sweep.by_stage:
        chosen = {one.spec: one for subject in chosen.values() for one in (subject, *_parts(subject))}
    made = cases.grid_of_cases(
        list(chosen), _shapes(sweep),
        dtypes=parsing.dtypes(sweep.dtype),
        modes=parsing.modes(sweep.mode or modes[0], modes),
        device=device.find(sweep.device), impl=sweep.impl, inputs=sweep.inputs if not sweep.model else "normal",
        seed=sweep.seed)
    for case in made:
        chosen[case.spec].check(case)
    return [Job(case, chosen[case.spec]) for case in made]


def specs(sweep: SweepConfig) -> list[Spec]:
    """The attentions or models of [sweep], the baseline first. Raises UsageError where one is named twice."""
    flag, parse = ("--model", parsing.models) if sweep.model else ("--attn", parsing.attentions)
    chosen: list[Spec] = list(parse(sweep.model or sweep.attn, flag))
    if sweep.baseline == NO_BASELINE or (sweep.model and not sweep.baseline):
        return chosen
    baseline: list[Spec] = list(parse(sweep.baseline or BASELINE, "--baseline"))
    if len(baseline) != 1:
        kind = "model" if sweep.model else "attention"
        raise UsageError(f"--baseline must be one {kind}, or {NO_BASELINE}; not '{sweep.baseline}'.")
    return baseline + [spec for spec in chosen if spec.label != baseline[0].label]


def _shapes(sweep: SweepConfig) -> list[Shape]:
    batches = parsing.counts(sweep.batch, "--batch")
    if sweep.model:
        return cases.image_shapes(parsing.images(sweep.image), batches)
    if sweep.grid:
        grids = parsing.grids(sweep.grid)
    else:
        grids = [cases.most_square(n) for n in parsing.counts(sweep.tokens, "--tokens")]
    return cases.token_shapes(grids, batches, parsing.counts(sweep.heads, "--heads"),
                              parsing.counts(sweep.head_dim, "--head-dim"), sweep.causal)


def _parts(subject: Subject) -> list[Subject]:
    """The stages of a model. Raises UsageError where it does not tell them."""
    from softbench.subjects.model import Backbone

    assert isinstance(subject, Backbone)
    parts: list[Subject] = list(subject.parts())
    if not parts:
        raise UsageError(f"--by-stage: {subject.spec.label} does not say what its stages are. Measure it without.")
    return parts


def check_distinct(chosen: Sequence[Subject], impl: str) -> None:
    """Refuse two labels for one thing, `soft` and `soft:landmarks=49`: their records would look alike."""
    labels: dict[str, str] = {}
    for subject in chosen:
        label = subject.spec.label
        same = labels.setdefault(f"{subject.attention} {subject.model} {subject.options} {subject.spec.impl or impl}",
                               label)
        if same != label:
            flag, kind = ("--model", "model") if subject.model else ("--attn", "attention")
            raise UsageError(f"{flag}: '{same}' and '{label}' are the same {kind}. Name it once.")


def _check_impl(impl: str, chosen: list[Subject]) -> None:
    known = {name for subject in chosen for name in subject.impls}
    if impl != "auto" and impl not in known:
        raise UsageError(f"No attention here has an implementation '{impl}'. Valid: auto, {', '.join(sorted(known))}.")


def default(**sweep: Any) -> Config:
    """A configuration from keywords of [sweep], over bench.toml and the built-in defaults."""
    return configuration.load(None, flags={"sweep": sweep})
