"""`softbench train`: any task, with any attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from softbench import options, parsing, plugins
from softbench.cli import _running, _training
from softbench.contracts.recipe import changed
from softbench.errors import UsageError

SECTION = "Train"


@click.command("train", context_settings=_running.CONTEXT)
@click.option("--task", required=True, metavar="NAME[:KEY=VALUE]",
              help="What is learned: a task of `softbench list`, or a file, with settings.")
@click.option("--attn", required=True, metavar="NAME[:KEY=VALUE]",
              help="The attention that learns it, or a file, with options.")
@click.option("--data", default="", metavar="DIR", help="The folder of tasks that read one, their setting data.")
@_training.running
@_training.learning
def train_command(task: str, attn: str, data: str, assignments: Sequence[str], **flags: Any) -> int:
    """Learn a task with an attention; the same command goes on after any interruption."""
    name, settings = parsing.task(task)
    spec, *others = parsing.attentions(attn)
    if others:
        raise UsageError(f"--attn: one attention learns at a time, and '{attn}' names {1 + len(others)}.")
    module = plugins.load("tasks", name, ["Settings"])

    from softbench.contracts import task as contract
    from softbench.training import samples

    if not hasattr(module, "whole"):
        contract.load(name)  # which says what is wrong with it before its settings are looked at
    way = module if hasattr(module, "whole") else samples  # by a model and a recipe of its own, or as most tasks
    kinds = {"recipe": _training.keys(way.Recipe), "task": _training.keys(module.Settings),
             "model": _training.keys(way.Model), "attention": _training.attention_keys(spec.name)}
    recipe, more, model, attention = _training.shared_out(
        assignments, kinds, f"key of the recipe, the task, the model or the attention of {name} with {spec.name}")
    recipe = _training.with_flags(recipe, flags, ("epochs", "total_batch", "batch"))
    settings |= more | ({"data": data} if data else {})
    arch, learned, row = way.whole(name, spec, options.parse(way.Model, model, "the model"), settings)
    return _training.run(arch, learned, changed(row, recipe), spec.options | attention, flags,
                         given_batch="batch" in recipe)
