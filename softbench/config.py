"""Configuration: built-in defaults, then bench.toml, then `--set`, then flags; every key is checked.

Sections are `[sweep]` (what is measured), `[process]` (how the process is set up), one for each measure and each study
(its `Settings`), and `[attention.<name>]` (default options of an attention).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from softbench import dtypes, files, options, plugins
from softbench.errors import UsageError, unknown
from softbench.options import option

FILE = "bench.toml"
_OF_ATTENTIONS = ("attn", "tokens", "grid", "heads", "head_dim", "causal", "inputs")
_OF_MODELS = ("image", "by_stage")


@dataclass(frozen=True)
class SweepConfig:
    """Section [sweep]: the grid of cases. Lists are comma-separated, as on the command line, or TOML arrays."""

    attn: str = option("soft,performer", "attentions, each name[:option=value...] or a .py file")
    model: str = option("", "whole models instead: soft-tiny, timm:NAME, each with options as above")
    baseline: str = option("", "what ratios refer to, added if absent; none for no baseline. Left out, it is softmax,"
                           " or the first model")
    tokens: str = option("256..16k", "numbers of tokens N; k means 1,024; a..b doubles from a to b")
    grid: str = option("", "grids of tokens, rows x columns, instead of --tokens")
    image: str = option("224", "images of --model in pixels: a side, or height x width")
    by_stage: bool = option(False, "also measure each stage of --model by itself")
    batch: str = option("1", "batch sizes B")
    heads: str = option("8", "numbers of heads H")
    head_dim: str = option("64", "sizes of a head D")
    causal: bool = option(False, "a token sees itself and those before it: all attentions in their causal form")
    dtype: str = option(dtypes.FLOAT32, dtypes.LISTED)
    mode: str = option("", "forward, backward, training (which is forward_backward); by default the measure's first")
    device: str = option("auto", "cpu, cuda, cuda:1; auto takes a GPU if there is one")
    impl: str = option("auto", "implementation; auto takes the first of each attention that runs here")
    inputs: str = option("normal", "normal, image, image:PATH, structured and others of `softbench list`")
    seed: int = option(0, "seed of inputs and parameters", low=0, high=2**31 - 1)


@dataclass(frozen=True)
class Process:
    """Section [process] of bench.toml."""

    threads: int = option(0, "CPU threads; 0 takes all cores this process may use, within its CPU quota", low=0,
                          high=1024)
    malloc: Literal["fixed", "default"] = option(
        "fixed", "fixed keeps freed memory in the process; default is what glibc does by itself")
    denormals: Literal["flush", "keep"] = option("flush", "flush rounds subnormal floats to zero")
    tf32: bool = option(False, "let float32 products on NVIDIA GPUs use TF32")


@dataclass(frozen=True)
class Config:
    """Everything a measuring command needs to know, as parsed and checked values.

    Attributes:
        measures, studies, attention: raw tables by plugin, checked here and parsed where the plugin is loaded.
    """

    sweep: SweepConfig
    process: Process
    measures: dict[str, dict[str, Any]] = field(default_factory=dict)
    studies: dict[str, dict[str, Any]] = field(default_factory=dict)
    attention: dict[str, dict[str, Any]] = field(default_factory=dict)


def load(path: Path | None, assignments: Sequence[str] = (),
         flags: Mapping[str, Mapping[str, Any]] | None = None) -> Config:
    """Return the configuration.

    Args:
        path: the file; None means ./bench.toml if there is one.
        assignments: `section.key=value` texts of `--set`.
        flags: section -> key -> value given as flags.
    Raises:
        UsageError: an unreadable file, an unknown section or key (names the valid ones), a value of a wrong type,
            a flag or assignment that belongs to attentions where models are measured, or the other way round.
    """
    tables = _read(path)
    for assignment in assignments:
        _assign(tables, assignment)
    for section, values in (flags or {}).items():
        if section == "sweep" and "tokens" in values:
            _drop_grid(tables)
            if values.get("grid"):
                raise UsageError("--tokens and --grid both say how many tokens there are. Give one of them.")
        tables.setdefault(section, {}).update(values)
    _settle(tables.setdefault("sweep", {}), _given(assignments) | set((flags or {}).get("sweep", {})))
    sweep = _texts(SweepConfig, tables.pop("sweep", {}))
    attention = tables.pop("attention", {})
    for name, table in attention.items():
        if name not in plugins.names("attention"):
            raise unknown("attention", name, plugins.names("attention"))
        _check_table(table, f"[attention.{name}]")
        options.parse(plugins.load("attention", name, ["Options"]).Options, table, f"[attention.{name}]")
    process = options.parse(Process, tables.pop("process", {}), "[process]")
    measures = {name: table for name, table in tables.items() if name in plugins.names("measures")}
    studies = {name: table for name, table in tables.items() if name not in measures}
    for name in studies:
        if name not in plugins.names("studies"):
            raise unknown("section", name, ["sweep", "process", "attention", *plugins.names("measures"),
                                            *plugins.names("studies")])
    for kind, sections in (("measures", measures), ("studies", studies)):
        for name, table in sections.items():
            _check_table(table, f"[{name}]")
            settings = plugins.load(kind, name, ["Settings"]).Settings
            sections[name] = _texts(settings, table)
            options.parse(settings, sections[name], f"[{name}]")
    return Config(options.parse(SweepConfig, sweep, "[sweep]"), process, measures, studies, attention)


def defaults() -> str:
    """Every section and key with its default, as the text of a bench.toml that changes nothing."""
    sections: dict[str, type] = {"sweep": SweepConfig, "process": Process}
    for kind in ("measures", "studies"):
        sections |= {name: plugins.load(kind, name, ["Settings"]).Settings for name in plugins.names(kind)}
    texts = []
    for name, cls in sections.items():
        keys = [(f"{key} = {json.dumps(default, ensure_ascii=False)}", " ".join(text.split()))
                for key, _, default, text in options.describe(cls)]
        texts.append("\n".join([f"[{name}]", *(f"{key:<26}# {text}" if len(key) < 26 else f"{key}  # {text}"
                                              for key, text in keys)]))
    return "\n\n".join(texts) + "\n"


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        path = Path(FILE)
        if not path.exists():
            return {}
    try:
        tables = tomllib.loads(files.read_text(path).decode())
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from error
    for name, table in tables.items():
        _check_table(table, f"{path}: {name}")
    return tables


def _assign(tables: dict[str, Any], assignment: str) -> None:
    name, equals, value = assignment.partition("=")
    *sections, key = name.strip().split(".")
    if not equals or not sections or not key:
        raise UsageError(f"--set: '{assignment}' is not section.key=value, as in latency.rep=200.")
    table = tables
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set: '{section}' in '{assignment}' is not a section.")
    if table is tables.get("sweep") and key == "tokens":
        _drop_grid(tables)
    table[key] = value.strip()


def _drop_grid(tables: dict[str, Any]) -> None:
    """Tokens given in a later layer take the place of a grid given in an earlier one, which would win otherwise."""
    tables.setdefault("sweep", {}).pop("grid", None)


def _given(assignments: Sequence[str]) -> set[str]:
    """Keys of [sweep] among the texts of `--set`."""
    names = (assignment.partition("=")[0].strip() for assignment in assignments)
    return {name.removeprefix("sweep.") for name in names if name.startswith("sweep.")}


def _settle(sweep: dict[str, Any], keys: set[str]) -> None:
    """Attentions or models: flags and assignments (`keys`) decide, and what the file says of the others is dropped.

    Raises:
        UsageError: a key was given that has no meaning for what is measured.
    """
    if "attn" in keys and "model" not in keys:
        sweep.pop("model", None)
    models = bool(sweep.get("model"))
    if models and "model" in keys and "baseline" not in keys:
        sweep.pop("baseline", None)  # it was written beside attentions
    wrong = [key for key in (_OF_ATTENTIONS if models else _OF_MODELS) if key in keys]
    if wrong and models:
        raise UsageError(f"{_flag(wrong[0])} is for attentions, and --model names whole models: leave one of them out.")
    if wrong:
        raise UsageError(f"{_flag(wrong[0])} is for whole models: name some, as in --model soft-tiny.")


def _flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _check_table(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise UsageError(f"{where} must be a section of keys, not '{value}'.")


def _texts(cls: type, table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with its lists and numbers as text where that is what the key holds."""
    return {key: as_text(value) if options.types(cls).get(key) is str else value for key, value in table.items()}


def as_text(value: Any) -> Any:
    """TOML numbers and arrays as the text that the flag takes: 8 -> "8", [1, 8] -> "1,8"."""
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
