"""Backbones as a source of inputs: q, k, v as an attention inside gets them, from photographs.

A place is written `SOURCE@stage2`, or `SOURCE@stage2.1` for the second block of that stage (the first is 0):

- `soft-tiny@stage1`: an arch with its initial weights, drawn with seed 0;
- `FILE@stage1`: a checkpoint of softbench's own training, which says itself what it is one of;
- `soft-tiny=FILE@stage1`: any other weights of that arch: official ones, or a state dict.

Images are seeded crops of the two photographs that scikit-learn ships, normalised as for ImageNet, of as many pixels as
the stage needs for the tokens asked for. A class token is left out. The model is in evaluation mode, in float32.
"""

from __future__ import annotations

import functools
import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from softbench import inputs, models
from softbench.attention._landmarks import LINEAR, avg_pool
from softbench.attention._nystrom import Nystrom
from softbench.case import Shape, most_square
from softbench.errors import ResultsError, Unsupported, UsageError
from softbench.models import checkpoints
from softbench.models.blocks import ProjectedAttention
from softbench.models.variants import IMAGE, PATCHES, STAGES

_FORM = "SOURCE@stage2 or SOURCE@stage2.1, with SOURCE an arch (soft-tiny), a checkpoint, or soft-tiny=FILE"


@dataclass(frozen=True)
class Place:
    """One attention of a backbone; `stage` and `block` count from 0. `file` is "" for initial weights."""

    arch: str
    file: str
    stage: int
    block: int


@dataclass(frozen=True)
class Captured:
    """Holds what it got: q, k, v [B, H, N, D] on a grid; SOFT's landmarks [B, H, m, D] as its kernel gets them."""

    q: Tensor
    k: Tensor
    v: Tensor
    grid: tuple[int, int]
    landmarks: Tensor | None


def parse(text: str) -> Place:
    """The place that a text names, without building the model.

    Raises:
        UsageError: not of the form above, no such arch, file or stage.
    """
    source, at, where = text.rpartition("@")
    match = re.fullmatch(r"stage(\d+)(?:\.(\d+))?", where)
    if not (at and source and match):
        raise UsageError(f"'{text}' names no place in a backbone: write {_FORM}.")
    stage, block = int(match[1]), int(match[2] or 0)
    if not 1 <= stage <= STAGES:
        raise UsageError(f"'{text}': stages are 1 to {STAGES}.")
    arch, equals, file = source.partition("=")
    if Path(source).exists() or not equals:
        arch, file = ("", source) if _is_file(source) else (source, "")
    if arch:
        _check_arch(arch)
    if file and not Path(file).is_file():
        raise UsageError(f"'{text}': there is no file '{file}'.")
    return Place(arch, file, stage - 1, block)


def check(text: str) -> None:
    """Raise UsageError unless the place exists and its weights can be read."""
    attention_of(parse(text))


def identity(text: str) -> str:
    """The text with a digest of the file's bytes, if there is a file."""
    file = parse(text).file
    return f"{text} {hashlib.sha256(Path(file).read_bytes()).hexdigest()[:8]}" if file else text


def shape(text: str, tokens: int) -> Shape:
    """Return heads and head size of the place, and the most square grid of so many tokens."""
    heads, head_dim = _heads(attention_of(parse(text)))
    return Shape(1, heads, *most_square(tokens), head_dim)


def tokens(text: str, shape: Shape, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [B, H, N, D] in float32 for that many images and that grid."""
    captured = capture(parse(text), shape.batch, shape.grid, seed)
    return captured.q, captured.k, captured.v


def landmarks(text: str, count: int, size: int, head_dim: int, seed: int) -> Tensor:
    """Landmarks [count, m, D] of the place, scaled by D^(-1/4): two heads of each crop, at the backbone's 224 pixels.

    They are those that the attention itself takes where it is SOFT's, otherwise averages of the queries' grid.

    Raises:
        Unsupported: this attention takes another number of landmarks, or its heads are of another size.
    """
    place = parse(text)
    side = IMAGE // PATCHES[place.stage]
    captured = capture(place, -(-count // 2), (side, side), seed)
    x = captured.landmarks
    if x is None:
        x = avg_pool(captured.q, captured.grid, most_square(size)) * captured.q.shape[3] ** -0.25
    _, heads, m, d = x.shape
    if m != size:
        raise Unsupported(f"the attention there has {m} landmarks, not {size}: set size={m}")
    if d != head_dim:
        raise Unsupported(f"the heads there have {d} entries, not {head_dim}: set head_dim={d}")
    return torch.stack([x[i // 2, i % heads] for i in range(count)]).double()


def capture(place: Place, count: int, grid: tuple[int, int], seed: int) -> Captured:
    """Run the backbone on that many crops, with as many pixels as give the grid at the place."""
    patch = PATCHES[place.stage]
    images = inputs.crops("", count, (grid[0] * patch, grid[1] * patch), seed)
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    attention = attention_of(place)
    calls: dict[str, Any] = {}
    if isinstance(attention, ProjectedAttention):
        watched = [(attention.core, "tokens")]
        if isinstance(attention.core, Nystrom):
            watched.append((attention.core.landmarks, "landmarks"))
    else:
        watched = [(attention.get_submodule("qkv"), "qkv")]
    hooks = [module.register_forward_hook(functools.partial(_keep, calls, name)) for module, name in watched]
    hooks.append(attention.register_forward_hook(_stop))
    try:
        with torch.no_grad(), suppress(_Enough):
            _model(place.arch, place.file)((images - mean) / std)
    finally:
        for hook in hooks:
            hook.remove()
    if "qkv" in calls:
        parts = calls["qkv"][1].unflatten(2, (3, *_heads(attention))).permute(2, 0, 3, 1, 4)  # [3, B, H, 1 + N, D]
        q, k, v = parts[:, :, :, parts.shape[3] - grid[0] * grid[1]:].contiguous()
    else:
        q, k, v = calls["tokens"][0]
    return Captured(q, k, v, grid, _scaled(attention, calls["landmarks"][1]) if "landmarks" in calls else None)


def attention_of(place: Place) -> nn.Module:
    """Return the attention at a place.

    Raises:
        UsageError: the weights cannot be read or do not fit, or there is no such block.
    """
    blocks = _model(place.arch, place.file).get_submodule(f"stages.{place.stage}.blocks")
    assert isinstance(blocks, nn.ModuleList)
    if place.block >= len(blocks):
        raise UsageError(f"stage{place.stage + 1} has {len(blocks)} blocks, counted from 0: there is no"
                         f" stage{place.stage + 1}.{place.block}.")
    return blocks[place.block].get_submodule("attn")


@functools.lru_cache(maxsize=2)
def _model(arch: str, file: str) -> nn.Module:
    """Return the backbone with its weights, in evaluation mode."""
    try:
        return _loaded(arch, file).eval() if file else _initial(arch).eval()
    except ResultsError as error:
        raise UsageError(str(error)) from error


def _initial(arch: str, **more: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.create(arch, **more)


def _loaded(arch: str, file: str) -> nn.Module:
    state = checkpoints.read(file)
    trained = checkpoints.trained(state, file)
    if not arch:
        if trained is None:
            raise UsageError(f"{file} does not say what it is a checkpoint of: write soft-tiny={file}@stage1, with the"
                             " arch that it is of.")
        _check_arch(arch := trained.registered(f"write {trained.arch}={file}@stage1"))
    weights = checkpoints.unwrapped(state)
    more: dict[str, Any] = {"official": True} if checkpoints.is_official(weights) else {
        "attn_options": trained.options if trained else None}
    head = weights.get("head.weight", torch.empty(0))
    make = functools.partial(_initial, arch, num_classes=len(head) if head.dim() else 0, **more)
    return checkpoints.pyramid(make, weights, file)


def _scaled(attention: nn.Module, pooled: Tensor) -> Tensor:
    """Landmarks as the kernel gets them: times D^(-1/4), where the tokens that they were made of were not."""
    core = attention.get_submodule("core")
    assert isinstance(core, Nystrom)
    return pooled * pooled.shape[3] ** -0.25 if core.options.sampling in LINEAR else pooled


def _check_arch(arch: str) -> None:
    if arch.startswith(models.PEER):
        raise UsageError(f"{arch} cannot be looked into: only softbench's own backbones can, as soft-tiny.")
    models.parse(arch)


def _is_file(source: str) -> bool:
    """True where a source is meant as a file: it is there, or cannot be an arch."""
    return Path(source).exists() or (".py-" not in source and ("/" in source or Path(source).suffix != ""))


def _heads(attention: nn.Module) -> tuple[int, int]:
    """Return heads and their size."""
    if isinstance(attention, ProjectedAttention):
        return attention.heads, attention.shape.head_dim
    assert isinstance(attention, Attention)
    return attention.num_heads, attention.head_dim


class _Enough(Exception):
    """All that was wanted has been seen."""


def _stop(*ignored: Any) -> None:
    raise _Enough


def _keep(calls: dict[str, Any], name: str, module: nn.Module, arguments: Any, result: Any) -> None:
    calls[name] = arguments, result
