"""`softbench info`: one attention, or one task, whole."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from softbench import options, plugins
from softbench.case import AttentionSpec, Shape
from softbench.cli import _attentions, _printing
from softbench.errors import unknown

if TYPE_CHECKING:
    from softbench.contracts.attention import Attention

Rows = Sequence[tuple[str, str]]


@click.command("info")
@click.argument("name")
@click.option("--format", "form", type=click.Choice(["table", "md"]), default="table", show_default=True)
def info_command(name: str, form: str) -> None:
    """Print an attention's formula, complexity, source and options, or a task's rule, chance level, source and
    settings. NAME is one of `softbench list`, or a file."""
    module, rows, described = _task(name) if _is_task(name) else _attention(name)
    _printing.echo(inspect.cleandoc(module.__doc__ or f"{name}: its file has no docstring."))
    _printing.echo()
    title, cls = described
    lines = [(key, kind, str(default), text) for key, kind, default, text in options.describe(cls)] if cls else []
    _printing.print_tables([
        _printing.listing("Facts", ("fact", "value"), rows),
        *([_printing.listing(title, ("name", "type", "default", "meaning"), lines)] if lines else []),
    ], form)


def _is_task(name: str) -> bool:
    """True of a task's name, and of a file with a task's constants."""
    if plugins.is_path(name):
        return "READOUT" in plugins.facts("attention", name)
    attentions, tasks = plugins.names("attention"), plugins.names("tasks")
    if name not in (*attentions, *tasks):
        raise unknown("attention or task", name, [*attentions, *tasks])
    return name not in attentions


def _attention(name: str) -> tuple[ModuleType, Rows, tuple[str, type | None]]:
    facts = plugins.facts("attention", name)

    from softbench.contracts import attention

    loaded = attention.load(AttentionSpec(name))
    module = loaded.module
    rows = list(zip(_attentions.HEADER[1:-1], _attentions.row(name, facts)[1:-1], strict=True))
    rows += [("keys are the queries", _attentions.yes_or_no(facts["SHARES_QK"])),
             ("dim of v", "that of q" if facts.get("SAME_DIM") else "any"),
             ("causal", loaded.causal), *_state(loaded),
             *((f"input {name}", str(gate)) for name, gate in loaded.gates.items()),
             ("file", str(plugins.where("attention", name)))]
    return module, rows, ("Options", module.Options)


def _state(attention: Attention) -> Rows:
    """How large the state of a causal form is; nothing where there is none."""
    if attention.causal == "never":
        return []
    shape = Shape(1, 1, 1, 64, 64, causal=True)
    module: Any = attention.bare(shape, attention.module.IMPLS[-1])
    if not hasattr(module, "state"):
        return []
    state = module.state(shape)
    numbers = sum(part.numel() for part in (state if isinstance(state, tuple) else (state,)) if hasattr(part, "numel"))
    return [("state", f"{numbers:,} numbers a head of dim {shape.head_dim}, at any N")]


def _task(name: str) -> tuple[ModuleType, Rows, tuple[str, type | None]]:
    module = plugins.load("tasks", name)
    rows = list(zip(_attentions.TASK_HEADER[1:-1], _attentions.task_row(name)[1:-1], strict=True))
    if hasattr(module, "chance"):
        from softbench.contracts import task

        rows += [("chance", f"{task.load(name).chance():.4g}")]
    return module, [*rows, ("file", str(plugins.where("tasks", name)))], ("Settings", getattr(module, "Settings", None))
