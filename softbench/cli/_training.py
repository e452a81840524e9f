"""What commands that train or evaluate on images share: their flags, and how these are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import click

from softbench import plugins
from softbench.case import TIMM
from softbench.dtypes import BFLOAT16, FLOAT16
from softbench.errors import UsageError, unknown
from softbench.machine.kinds import is_gpu
from softbench.tasks.images.recipe import Recipe

_AMP = ("auto", "none", BFLOAT16, FLOAT16)
_PEER = f"{TIMM}:"
OF_IMAGES = ("data", "class_map", "classes", "limit")


def options(command: Callable[..., int]) -> Callable[..., int]:
    """The flags that training and evaluation have in common."""
    flags = (
        click.option("--data", required=True, metavar="DIR|NAME",
                     help="A folder with train/ and val/, or train.tar and val.tar; hfds:NAME, hfids:NAME, wds:DIR,"
                          " tfds:NAME as timm reads them; synthetic; digits."),
        click.option("--splits", metavar="TRAIN,VAL", default="train,validation", show_default=True,
                     help="Names of the splits where the data are not a folder."),
        click.option("--class-map", default="", metavar="FILE",
                     help="Labels of the classes: a name a line, or a name and its label."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N images of each split."),
        click.option("--device", default="auto", show_default=True, metavar="NAME",
                     help="cpu, cuda; auto takes a GPU if there is one."),
        click.option("--amp", type=click.Choice(_AMP), default="auto", show_default=True,
                     help="Autocast; auto is bfloat16 on a GPU and none on a CPU."),
        click.option("--workers", type=click.IntRange(0, 256), metavar="N",
                     help="Processes that load images. [4 for each GPU, 0 on a CPU]"),
        click.option("--threads", type=click.IntRange(0, 1024), default=0, metavar="N",
                     help="CPU threads; 0 shares all cores among the processes here. [0]"),
        click.option("--max-bad", type=click.IntRange(min=0), default=100, show_default=True, metavar="N",
                     help="Images that may be unreadable; they are named in bad-images.txt."),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
                     help="Any key of the recipe, or an option of the attention, as in landmarks=64. Repeatable."),
    )
    for flag in reversed(flags):
        command = flag(command)
    return command


def assigned(assignments: Sequence[str], arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of the recipe and options of the attention that `--set` gives.

    Where both have a key, it is the recipe's; `recipe.` and `attention.` in front tell them apart.
    """
    recipe: dict[str, Any] = {}
    attention: dict[str, Any] = {}
    keys = {field.name for field in dataclasses.fields(Recipe)}
    name = parsed(arch)[0] if arch else ""
    options = [f.name for f in dataclasses.fields(plugins.load("attention", name, ["Options"]).Options)] if name else []
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        kind, dot, bare = key.strip().rpartition(".")
        if not equals or not bare or (dot and kind not in ("recipe", "attention")):
            raise UsageError(f"--set: '{assignment}' is not KEY=VALUE, recipe.KEY=VALUE or attention.KEY=VALUE.")
        if kind != "recipe" and bare in options and (kind or bare not in keys):
            attention[bare] = value.strip()
        elif kind != "attention" and bare in keys:
            recipe[bare] = value.strip()
        else:
            raise unknown(f"key of the recipe or option of the attention of {arch or 'this checkpoint'}", bare,
                          [*(keys if kind != "attention" else ()), *(options if kind != "recipe" else ())])
    return recipe, attention


def parsed(arch: str) -> tuple[str, str]:
    """Attention and variant of an arch; of a timm model neither."""
    if arch.startswith(_PEER):
        return "", ""
    from softbench.models.variants import parse

    return parse(arch)


def amp(name: str, device: str) -> str:
    """What `--amp` comes to on a device."""
    if name != "auto":
        return name
    return BFLOAT16 if is_gpu(device) else "none"


def workers(count: int | None, device: str) -> int:
    """What `--workers` comes to on a device."""
    return count if count is not None else 4 if is_gpu(device) else 0


def splits(text: str) -> tuple[str, str]:
    """The two names of `--splits`. Raises UsageError where they are not two."""
    train, comma, val = text.partition(",")
    if not comma or not train or not val or "," in val:
        raise UsageError(f"--splits takes two names, as in train,validation; not '{text}'.")
    return train, val
