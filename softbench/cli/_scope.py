"""Scopes: commands of the gate share the flags that say which cases it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from softbench import parsing

if TYPE_CHECKING:
    from softbench.gate.programme import Scope


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that say which cases a gate is about."""
    for flag in reversed((
        click.option("--attn", metavar="NAMES", help="Attentions as in `softbench latency`. [all]"),
        click.option("--tokens", metavar="LENGTHS", help="Numbers of tokens. [256,1k; times of all: 1k]"),
        click.option("--mode", metavar="MODES", help="What a call is. [forward,forward_backward;"
                     " times of all: forward_backward]"),
        click.option("--dtype", metavar="DTYPES", help="Element types. [float32]"),
        click.option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1; auto takes a GPU if there is one. [auto]"),
        click.option("--threads", type=click.IntRange(min=0), metavar="N", help="CPU threads; 0 takes all. [0]"),
    )):
        command = flag(command)
    return command


model = click.option("--model", metavar="NAMES", help="Whole models beside the attentions, exact quantities"
                            " only; none for none. [soft-tiny,soft-norm-tiny; none with --attn]")


def take(flags: dict[str, Any]) -> Scope:
    """The scope that these flags ask for; what is not given keeps its default."""
    from softbench.gate.programme import Scope

    if flags.get("mode") is not None:
        flags = flags | {"mode": ",".join(parsing.modes(flags["mode"]))}  # older versions know fewer words
    names = {"mode": "modes"}
    return Scope(**{names.get(name, name): value for name, value in flags.items() if value is not None})
