"""One forward pass of the pyramid costs this in theory, part by part, from shapes alone.

FLOP are two per multiply-add, of matrix products and convolutions, as in `softbench.contracts.attention.Cost`; with
B images and N tokens of C channels in a stage:

    stem, embed   2 B out_rows out_cols numel(weight) for each convolution
    projections   2 B N C^2 for each linear layer around the attention
    products      the plugin's cost(), less the three parts below; in the last stage 4 B N^2 C
    landmarks     the convolution that makes SOFT's landmarks
    distances     |x_i - l_j|^2 of SOFT's two kernels, 2 (N m + m^2) D a head
    inverse       the iterations or the factorisation of the m x m kernel, of SOFT and Nystromformer
    mlp, head     their linear layers

Two totals: `flops`, everything that runs; and `published`, which leaves out landmarks, distances and inverse. The
latter is how the paper of SOFT must have counted, with average-pooled landmarks and A^+ applied to P V: halved, it
gives the 1.9, 3.3, 7.2 and 11.0 G that are printed for tiny to large (15.6 for huge, where 16.3 is printed).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import timm.layers
import torch
from timm.models.vision_transformer import Block
from torch import nn

from softbench import models
from softbench.case import Shape
from softbench.contracts.attention import Attention
from softbench.errors import UsageError
from softbench.models.blocks import Grid, Mlp, PatchEmbed, SoftBlock
from softbench.models.pyramid import Pyramid, Stage

UNPUBLISHED = ("landmarks", "distances", "inverse")


@dataclass(frozen=True)
class Part:
    """FLOP of one kind of work in one stage, which is counted from 1; the head has stage 0."""

    stage: int
    name: str
    flops: float


@dataclass(frozen=True)
class ModelCost:
    """The parts of a forward pass, each name once a stage."""

    parts: tuple[Part, ...]

    @property
    def flops(self) -> float:
        """Everything that runs."""
        return sum(part.flops for part in self.parts)

    @property
    def published(self) -> float:
        """The FLOP that the paper of SOFT counts."""
        return sum(part.flops for part in self.parts if part.name not in UNPUBLISHED)

    def by_name(self) -> dict[str, float]:
        """FLOP of each kind of work, over all stages."""
        names = dict.fromkeys(part.name for part in self.parts)
        return {name: sum(part.flops for part in self.parts if part.name == name) for name in names}

    def by_stage(self) -> dict[int, float]:
        """FLOP of each stage; 0 is the head."""
        stages = dict.fromkeys(part.stage for part in self.parts)
        return {stage: sum(part.flops for part in self.parts if part.stage == stage) for stage in stages}


def cost(model: Pyramid | str, image: int | Grid | None = None, batch: int = 1) -> ModelCost:
    """The cost of a model of `softbench.models`, or of an arch by its name.

    Args:
        image: side, or rows and cols, of the images; None: what the model was made for.
    Raises:
        UsageError: no such arch, or a model of timm.

    >>> cost("soft-tiny").by_name()
    """
    if isinstance(model, str):
        with torch.device("meta"):
            built = models.create(model, img_size=image)
        if not isinstance(built, Pyramid):
            raise UsageError(f"{model} has no formula: it is timm's own.")
        model = built
    grid = model.img_size if image is None else (image, image) if isinstance(image, int) else image
    parts: dict[tuple[int, str], float] = {}
    for number, stage in enumerate(model.stages, 1):
        assert isinstance(stage, Stage)
        name = "stem" if number == 1 else "embed"
        flops, grid = _embedding(stage.patch_embed, grid, batch)
        work = [(name, flops), *(pair for block in stage.blocks for pair in _block(block, grid, batch, stage))]
        for key, flops in work:
            parts[number, key] = parts.get((number, key), 0.0) + flops
    if isinstance(model.head, nn.Linear):
        parts[0, "head"] = _linear(model.head, batch)
    return ModelCost(tuple(Part(stage, name, flops) for (stage, name), flops in parts.items()))


def _embedding(embed: PatchEmbed, grid: Grid, batch: int) -> tuple[float, Grid]:
    """FLOP of the convolutions, and the grid of tokens that they make."""
    flops = 0.0
    for layer in embed.proj:
        if isinstance(layer, nn.Conv2d):
            grid = -(-grid[0] // layer.stride[0]), -(-grid[1] // layer.stride[1])
            flops += 2.0 * batch * grid[0] * grid[1] * layer.weight.numel()
    return flops, grid


def _block(block: nn.Module, grid: Grid, batch: int, stage: Stage) -> Iterator[tuple[str, float]]:
    tokens = grid[0] * grid[1] + (stage.cls_token is not None)
    if isinstance(block, SoftBlock):
        attn = block.attn
        shape = Shape(batch, attn.heads, *grid, attn.shape.head_dim)
        layers = [layer for layer in (attn.q, attn.k, attn.v, attn.proj) if layer is not None]
        yield "projections", sum(_linear(layer, batch * tokens) for layer in layers)
        yield from _attention(attn.attention, shape)
    else:
        assert isinstance(block, Block)
        softmax = block.attn
        assert isinstance(softmax, timm.layers.Attention)
        yield "projections", _linear(softmax.qkv, batch * tokens) + _linear(softmax.proj, batch * tokens)
        yield "products", 4.0 * batch * tokens**2 * softmax.proj.in_features
    mlp = block.mlp
    assert isinstance(mlp, Mlp | timm.layers.Mlp)
    yield "mlp", sum(_linear(layer, batch * tokens) for layer in (mlp.fc1, mlp.fc2) if isinstance(layer, nn.Linear))


def _attention(attention: Attention, shape: Shape) -> Iterator[tuple[str, float]]:
    """The plugin's cost, in parts where it has them."""
    parts = attention.parts(shape)
    yield "products", attention.cost(shape).flops - sum(parts.values())
    yield from parts.items()


def _linear(layer: nn.Linear, tokens: int) -> float:
    return 2.0 * tokens * layer.weight.numel()

