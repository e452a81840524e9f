"""`softbench train`: any task, with any attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from softbench import options, parsing, plugins
from softbench.cli import _running, _training
from softbench.contracts.recipe import SmallRecipe, changed
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
    attentions = parsing.attentions(attn)
    if len(attentions) > 1:
        raise UsageError(f"--attn: one attention learns at a time, and '{attn}' names {len(attentions)}.")
    (spec,) = attentions
    module = plugins.load("tasks", name)
    whole = hasattr(module, "whole")  # a task that brings a model and a recipe of its own

    from softbench.models.encoder import Size

    kinds = {"recipe": module.Recipe if whole else SmallRecipe, "task": module.Settings,
             "model": module.Model if whole else Size}
    keys = {kind: _training.keys(table) for kind, table in kinds.items()} | {
        "attention": _training.attention_keys(spec.name)}
    of = f"key of the recipe, the task, the model or the attention of {name} with {spec.name}"
    recipe, more, model, attention = _training.shared_out(assignments, keys, of)
    recipe = _training.with_flags(recipe, flags, ("epochs", "total_batch", "batch"))
    settings = settings | more | ({"data": data} if data else {})
    size = options.parse(kinds["model"], model, "the model")
    if whole:
        if spec.impl:
            raise UsageError(f"--attn: {name} is learned with the fastest implementation: leave out impl={spec.impl}.")
        parsed = options.parse(module.Settings, settings, f"task '{name}'")
        arch, learned, row = module.whole(spec.name, size, parsed)
        recipe_ = changed(row, recipe)
    else:
        from softbench.contracts import task as contract
        from softbench.training.samples import ARCH, SampleTask

        learned = SampleTask(contract.load(name, settings), size, spec.impl or "auto")
        arch, recipe_ = f"{spec.name}{ARCH}", learned.recipe(recipe)
    return _training.run(arch, learned, recipe_, spec.options | attention, flags, given_batch="batch" in recipe)
