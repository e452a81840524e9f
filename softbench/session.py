"""A session: a configuration and the name of a measure or study become a sweep or study that is ready to run here."""

from __future__ import annotations

from typing import Any

from softbench import case as cases
from softbench import config as configuration
from softbench import environment as env
from softbench import inputs, process
from softbench import options as opts
from softbench.attention import _contract as attentions
from softbench.case import AttentionSpec, Case
from softbench.config import Config, SweepConfig
from softbench.errors import PluginError, UsageError
from softbench.measures import _contract as measures
from softbench.studies import _contract as studies
from softbench.study import Study
from softbench.sweep import Job, Sweep

NO_BASELINE = "none"


def start(config: Config, measure: str, *, command: str = "", **extra: Any) -> Sweep:
    """Set the process up and lay out the whole sweep; every name and value is checked before anything is measured.

    Raises:
        UsageError: an unknown name or a bad value anywhere in the configuration.
    """
    module = measures.load(measure)
    settings = opts.parse(module.Settings, config.measures.get(measure, {}), f"[{measure}]")
    state = process.apply(config.process)
    jobs = plan(config, getattr(module, "MODES", cases.MODES))
    environment = env.take(state, jobs[0].case.device, command)
    return Sweep(measure, module, settings, jobs, environment, **extra)


def start_study(config: Config, name: str, *, command: str = "") -> Study:
    """Set the process up and cut the study into tasks; every setting is checked before any task runs.

    Raises:
        UsageError: a bad setting. PluginError: no task, or two of one name, which a resumed run could not tell apart.
    """
    module = studies.load(name)
    settings = opts.parse(module.Settings, config.studies.get(name, {}), f"[{name}]")
    state = process.apply(config.process)
    tasks = list(module.tasks(settings))
    names = [task.name for task in tasks]
    if not tasks or len(set(names)) < len(names):
        twice = [f"two tasks named '{task}'" for task in names if names.count(task) > 1]
        raise PluginError(f"Study '{name}' has {twice[0] if twice else 'no task'} with these settings.")
    return Study(name, module, tasks, env.take(state, command=command))


def plan(config: Config, modes: tuple[str, ...] = cases.MODES) -> list[Job]:
    """The jobs that a configuration asks for, cases of one point side by side, the baseline first."""
    sweep = config.sweep
    loaded = {spec.label: attentions.load(spec, config.attention.get(spec.name)) for spec in specs(sweep)}
    _check_distinct(loaded)
    _check_impl(sweep.impl, [a.module.IMPLS for a in loaded.values()])
    inputs.check(sweep.inputs)
    return [Job(case, loaded[case.attention.label]) for case in _cases(sweep, modes)]


def specs(sweep: SweepConfig) -> list[AttentionSpec]:
    """The attentions of [sweep], the baseline first. Raises UsageError where one is named twice."""
    chosen = cases.parse_attentions(sweep.attn)
    labels = [spec.label for spec in chosen]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"--attn: '{label}' is named twice.")
    if sweep.baseline == NO_BASELINE:
        return chosen
    baseline = cases.parse_attentions(sweep.baseline)
    if len(baseline) != 1:
        raise UsageError(f"--baseline must be one attention, or {NO_BASELINE}; not '{sweep.baseline}'.")
    return baseline + [spec for spec in chosen if spec.label != baseline[0].label]


def _cases(sweep: SweepConfig, modes: tuple[str, ...]) -> list[Case]:
    if sweep.grid:
        grids = cases.parse_grids(sweep.grid)
    else:
        grids = [cases.most_square(n) for n in cases.parse_counts(sweep.tokens, "--tokens")]
    return cases.grid_of_cases(
        specs(sweep), grids,
        batches=cases.parse_counts(sweep.batch, "--batch"),
        heads=cases.parse_counts(sweep.heads, "--heads"),
        head_dims=cases.parse_counts(sweep.head_dim, "--head-dim"),
        dtypes=cases.check_choices(sweep.dtype.split(","), cases.DTYPES, "dtype"),
        modes=cases.check_choices((sweep.mode or modes[0]).split(","), modes, "mode"),
        device=device(sweep.device), impl=sweep.impl, inputs=sweep.inputs, seed=sweep.seed)


def device(name: str) -> str:
    """A device that exists. "auto" is the GPU if there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not index.isdigit()):
        raise UsageError(f"No device named '{name}'. Valid: auto, cpu, cuda, cuda:0 and so on.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA device here. Use --device cpu, or install a driver and a CUDA build.")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise UsageError(f"No device '{name}': this machine has {torch.cuda.device_count()} CUDA device(s).")
    return "cpu" if kind == "cpu" else name


def _check_distinct(loaded: dict[str, attentions.Attention]) -> None:
    """Refuse two labels for one thing, `soft` and `soft:landmarks=49`: their records could not be told apart."""
    seen: dict[str, str] = {}
    for label, attention in loaded.items():
        impl = cases.parse_attentions(label)[0].impl if ":impl=" in label else None
        same = seen.setdefault(f"{attention.name} {opts.to_dict(attention.options)} {impl}", label)
        if same != label:
            raise UsageError(f"--attn: '{same}' and '{label}' are the same attention. Name it once.")


def _check_impl(impl: str, all_impls: list[tuple[str, ...]]) -> None:
    known = {name for impls in all_impls for name in impls}
    if impl != "auto" and impl not in known:
        raise UsageError(f"No attention here has an implementation '{impl}'. Valid: auto, {', '.join(sorted(known))}.")


def default(**sweep: Any) -> Config:
    """A configuration from keywords of [sweep], over bench.toml and the built-in defaults."""
    return configuration.load(None, flags={"sweep": sweep})
