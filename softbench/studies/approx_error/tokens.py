"""Where a study's tokens come from: the families of `softbench.inputs`, and attentions inside backbones.

`checkpoint:SOURCE@stage2` is q, k, v as an attention of a backbone gets them (`_backbone`). Its heads and their size
are the backbone's; the grid is the most square one of the tokens asked for.
"""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from softbench import inputs
from softbench.case import Shape, most_square
from softbench.errors import unknown
from softbench.inputs.made_up import FAMILIES

CHECKPOINT = "checkpoint"


def check(family: str) -> None:
    """Raise UsageError unless the family exists and what it needs is there."""
    kind, _, rest = family.partition(":")
    if kind == CHECKPOINT:
        _backbone().check(rest)
    elif kind in FAMILIES or kind == "image":
        inputs.check(family)
    else:
        raise unknown("inputs", family, [*FAMILIES, "image", "image:PATH", "checkpoint:PATH@stage"])


def shape(family: str, tokens: int, heads: int, head_dim: int) -> Shape:
    """The shape of one sample: heads and their size as asked for, unless a backbone has its own."""
    kind, _, rest = family.partition(":")
    if kind == CHECKPOINT:
        return _backbone().shape(rest, tokens)
    return Shape(1, heads, *most_square(tokens), head_dim)


def identity(family: str) -> str:
    """Name what decides the tokens besides shape and seed: the family, and what a checkpoint holds."""
    kind, _, rest = family.partition(":")
    return f"{kind}:{_backbone().identity(rest)}" if kind == CHECKPOINT else family


def tokens(family: str, shape: Shape, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [B, H, N, D] in float32 on the CPU, the same for the same seed."""
    kind, _, rest = family.partition(":")
    return _backbone().tokens(rest, shape, seed) if kind == CHECKPOINT else inputs.tokens(family, shape, seed)


def _backbone() -> ModuleType:
    from softbench.inputs import captured  # imports timm, which takes seconds

    return captured
