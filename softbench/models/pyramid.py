"""The pyramid vision transformer of SOFT, with any attention in its first three stages, as a timm model.

Stage i makes tokens of 4, 8, 16, 32 pixels side (`PatchEmbed`), adds learned positions and runs its blocks. Stages 1 to
3 are `SoftBlock`s with the chosen attention; stage 4 is, as in the paper, ordinary pre-norm softmax attention, with a
class token. Then comes layer norm and a linear head on the class token, or on the mean of the tokens.

Images may have any size from one token up: positions are resampled bilinearly to the grid at hand, rows and cols are
rounded up, and the number of landmarks stays (`softbench.attention.soft`). `official=True` is the exact model of the
official code instead, in which landmarks grow with the image.

Source: Lu et al., SOFT: Softmax-free Transformer with Linear Complexity, NeurIPS 2021 (arXiv 2110.11945), section 3.3,
Table 1; what the paper leaves open is as in the official code (stage-wise positions, batch norm and ReLU in the
embeddings, norm after the addition, convolution of v).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from timm.layers import trunc_normal_
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from softbench.case import AttentionSpec
from softbench.contracts import attention as attentions
from softbench.errors import UsageError, unknown
from softbench.models import variants
from softbench.models.blocks import Grid, PatchEmbed, SoftBlock
from softbench.models.variants import IMAGE, PATCHES, STAGES, VARIANTS, Variant
from softbench.ops._common import widened

Pool = Literal["token", "avg", ""]


class Stage(nn.Module):
    """A patch embedding, positions for its tokens (and the class token, if it has one), and blocks."""

    def __init__(self, embed: PatchEmbed, blocks: Sequence[nn.Module], dim: int, grid: Grid, class_token: bool) -> None:
        super().__init__()
        self.patch_embed = embed
        self.grid, self.grad_checkpointing = grid, False
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1] + class_token, dim))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, image: Tensor) -> tuple[Tensor, Grid]:
        """Return the stage's tokens [B, N, C], the class token in front, and their grid."""
        x, grid = self.patch_embed(image)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1)  # len(x) would fix an exported batch
        x = x + resampled(self.pos_embed, self.grid, grid)
        for block in self.blocks:
            inputs = (x, grid) if isinstance(block, SoftBlock) else (x,)
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x = block(*inputs)
        return x, grid


def resampled(positions: Tensor, built_for: Grid, grid: Grid) -> Tensor:
    """Positions [1, prefix + rows * cols, C] for another grid, bilinearly; those of prefix tokens are kept."""
    if grid == built_for:
        return positions
    prefix = positions.shape[1] - built_for[0] * built_for[1]
    image = positions[:, prefix:].mT.unflatten(-1, built_for)
    moved = F.interpolate(widened(image), size=grid, mode="bilinear").to(image.dtype)
    return torch.cat([positions[:, :prefix], moved.flatten(2).mT], 1)


class Pyramid(nn.Module):
    """The backbone, images [B, in_chans, rows, cols] -> logits [B, num_classes].

    Args:
        variant: a row of the table, or its name.
        attention: name or path of the attention of stages 1 to 3.
        attn_options: options of it, on top of what the pyramid chooses (`variants.stage_options`).
        impl: its implementation; "auto" follows the device and the dtype.
        img_size: side, or rows and cols, that positions are made for. Any other size works too.
        global_pool: what the head sees: the class token, the mean of the last stage's other tokens, or, with "", each
            token for itself.
        class_token: without one, `global_pool` must be "avg".
        mlp_ratios: hidden over outer channels of the MLPs, a stage each.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0. drop_rate: dropout before the head.
        official: exactly what the official code computes, for its weights, at 224 px positions. For soft, soft_norm.
    Raises:
        UsageError: a name, an option or a size that does not exist or does not fit.
    """

    def __init__(self, variant: Variant | str = "tiny", attention: str = "soft", *, img_size: int | Grid = IMAGE,
                 in_chans: int = 3, num_classes: int = 1000, global_pool: Pool = "token", class_token: bool = True,
                 attn_options: dict[str, Any] | None = None, impl: str = "auto",
                 mlp_ratios: tuple[float, ...] = (4.0,) * STAGES, drop_rate: float = 0.0, drop_path_rate: float = 0.0,
                 official: bool = False) -> None:
        super().__init__()
        if isinstance(variant, str) and variant not in VARIANTS:
            raise unknown("variant", variant, VARIANTS)
        row = VARIANTS[variant] if isinstance(variant, str) else variant
        image = _image(img_size)
        _check_pool(global_pool, class_token)
        _check_numbers(num_classes, in_chans, mlp_ratios, {"drop_rate": drop_rate, "drop_path_rate": drop_path_rate})
        self.attention, self.impl, self.official, self.img_size = attention, impl, official, image
        self.in_chans, self.num_classes, self.global_pool = in_chans, num_classes, global_pool
        self.num_prefix_tokens = int(class_token)
        self.num_features = self.head_hidden_size = self.embed_dim = row.dims[-1]
        self.feature_info = [{"num_chs": dim, "reduction": patch, "module": f"stages.{i}"}
                             for i, (dim, patch) in enumerate(zip(row.dims, PATCHES, strict=True))]
        last = max(1, sum(row.depths) - 1)
        rates = [drop_path_rate * i / last for i in range(last + 1)]
        options = _checked_options(attn_options, image)
        norm: Any = partial(nn.LayerNorm, eps=1e-6)
        self.stages = nn.ModuleList()
        for i, (dim, heads, depth) in enumerate(zip(row.dims, row.heads, row.depths, strict=True)):
            grid = variants.grid((IMAGE, IMAGE) if official else image, i)
            drops, rates = rates[:depth], rates[depth:]
            blocks: list[nn.Module]
            if i < STAGES - 1:
                chosen = _stage_attention(attention, i, options, official)
                blocks = [SoftBlock(dim, heads, chosen, grid, impl=impl, mlp_ratio=mlp_ratios[i], drop_path=drop)
                          for drop in drops]
            else:
                blocks = [Block(dim, heads, mlp_ratio=mlp_ratios[i], qkv_bias=True, drop_path=drop,
                                norm_layer=norm) for drop in drops]
            embed = PatchEmbed(row.dims[i - 1] if i else in_chans, dim, stem=i == 0)
            self.stages.append(Stage(embed, blocks, dim, grid, class_token and i == STAGES - 1))
        self.norm = norm(self.num_features)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = _head(self.num_features, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        """Linear layers and positions from a truncated normal of deviation 0.02, biases 0; convolutions as in torch."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and ".core." not in name:  # attentions know their own
                _init_linear(module)
        for stage in self._stages():
            trunc_normal_(stage.pos_embed, std=0.02)
            if stage.cls_token is not None:
                trunc_normal_(stage.cls_token, std=0.02)

    def _stages(self) -> list[Stage]:
        return [stage for stage in self.stages if isinstance(stage, Stage)]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return normalised tokens of the last stage, [B, N, C], the class token in front."""
        _check_images(x, self.in_chans)
        for stage in self._stages():
            tokens, grid = stage(x)
            x = _image_of(tokens, grid)
        normalised: Tensor = self.norm(tokens)
        return normalised

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [B, num_classes] from `forward_features`; with `pre_logits`, what the linear layer sees [B, C].

        Without pooling (`global_pool` is ""), these of each token: [B, N, num_classes], [B, N, C].
        """
        if self.global_pool:
            x = x[:, 0] if self.global_pool == "token" else x[:, self.num_prefix_tokens:].mean(1)
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
            self, x: Tensor, indices: int | list[int] | None = None, norm: bool = False, stop_early: bool = False,
            output_fmt: str = "NCHW", intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return feature maps [B, C, rows, cols] of the stages in `indices` (timm's interface for dense prediction).

        Args:
            indices: stages, or how many of the last; None: all.
            norm: apply the final layer norm to the map of the last stage.
            stop_early: leave out the stages after the last that is asked for.
            output_fmt: "NCHW", the only one.
            intermediates_only: return the maps alone, without `forward_features`.
        """
        if output_fmt != "NCHW":
            raise UsageError(f"output_fmt must be NCHW, not {output_fmt}.")
        _check_images(x, self.in_chans)
        chosen, last = feature_take_indices(STAGES, indices)
        maps = []
        for i, stage in enumerate(self._stages()[: last + 1 if stop_early else None]):
            tokens, grid = stage(x)
            x = _image_of(tokens, grid)
            if i in chosen:
                maps.append(_image_of(self.norm(tokens), grid) if norm and i == STAGES - 1 else x)
        if intermediates_only:
            return maps
        return self.norm(tokens) if i == STAGES - 1 else tokens, maps

    def prune_intermediate_layers(self, indices: int | list[int] = 1, prune_norm: bool = False,
                                  prune_head: bool = True) -> list[int]:
        """Drop the stages after the last in `indices` (timm's interface)."""
        chosen, last = feature_take_indices(STAGES, indices)
        self.stages = self.stages[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return chosen

    def get_classifier(self) -> nn.Module:
        """Return the linear layer of the head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: Pool | None = None) -> None:
        """A new head for another number of classes; 0 leaves the features."""
        pool = self.global_pool if global_pool is None else global_pool
        _check_pool(pool, bool(self.num_prefix_tokens))
        _check_numbers(num_classes)
        self.num_classes, self.global_pool = num_classes, pool
        self.head = _head(self.num_features, num_classes).to(self._stages()[0].pos_embed)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not to decay: positions and the class token."""
        return {name for name, _ in self.named_parameters() if name.endswith((".pos_embed", ".cls_token"))}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that order parameters by depth, for layer-wise learning rates in timm."""
        parts = r"^stages\.(\d+)\.(?:patch_embed|pos_embed|cls_token)"
        return {"stem": r"^stages\.0\.(?:patch_embed|pos_embed)",
                "blocks": r"^stages\.(\d+)" if coarse else [
                    (r"^stages\.(\d+)\.blocks\.(\d+)", None), (parts, (0,)), (r"^norm", (99999,))]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations."""
        for stage in self._stages():
            stage.grad_checkpointing = enable


def _stage_attention(name: str, stage: int, own: dict[str, Any], official: bool) -> attentions.Attention:
    """The attention of a stage: its window follows from the 224 px grid, so that weights fit any image size."""
    options = variants.stage_options(name, stage) | (variants.official_options(name) if official else {}) | own
    chosen = attentions.load(AttentionSpec(name, options))
    if getattr(chosen.options, "sampling", "") in ("conv", "conv_ratio") and "window" not in own:
        side = variants.grid((IMAGE, IMAGE), stage)[0] / chosen.options.landmarks**0.5
        return replace(chosen, options=replace(chosen.options, window=max(1, int(side))))
    return chosen


def _checked_options(options: dict[str, Any] | None, image: Grid) -> dict[str, Any]:
    if not isinstance(options, dict | None):
        raise UsageError(f"attn_options must be a dict of options, as {{'landmarks': 64}}, not {options!r}.")
    landmarks = str((options or {}).get("landmarks", "")).strip()
    rows, cols = (max(a, b) for a, b in zip(variants.grid(image, 2), variants.grid((IMAGE, IMAGE), 2), strict=True))
    if landmarks.isdecimal() and int(landmarks) > rows * cols:
        raise UsageError(f"landmarks={landmarks} is more than the {rows * cols} tokens of stage 3: use at most these,"
                         " or a larger image.")
    return options or {}


def _check_pool(pool: str, class_token: bool) -> None:
    if pool not in get_args(Pool):
        raise UsageError(f"global_pool must be 'token', 'avg', or '' for none, not {pool!r}.")
    if pool == "token" and not class_token:
        raise UsageError("global_pool='token' needs the class token: use global_pool='avg', or class_token=True.")


def _check_numbers(num_classes: int, in_chans: int = 1, mlp_ratios: Sequence[float] = (1,) * STAGES,
                   rates: dict[str, float] | None = None) -> None:
    if num_classes < 0:
        raise UsageError(f"num_classes must be at least 0 (no head), not {num_classes}.")
    if in_chans < 1:
        raise UsageError(f"in_chans must be at least 1, not {in_chans}.")
    if not isinstance(mlp_ratios, tuple | list) or len(mlp_ratios) != STAGES or min(mlp_ratios) <= 0:
        raise UsageError(f"mlp_ratios must be {STAGES} positive numbers, one a stage, not {mlp_ratios!r}.")
    for name, rate in (rates or {}).items():
        if not 0 <= rate <= 1:
            raise UsageError(f"{name} must be between 0 and 1, not {rate}.")


def _image(img_size: int | Grid) -> Grid:
    sides = img_size if isinstance(img_size, tuple | list) else (img_size, img_size)
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise UsageError(f"img_size must be a whole number of pixels, or rows and columns, not {img_size!r}.")
    _check_side(*sides)
    return sides[0], sides[1]


def _check_images(x: Tensor, in_chans: int) -> None:
    if x.dim() != 4 or x.shape[1] != in_chans or not x.shape[0]:
        raise UsageError(f"Images must be [batch, {in_chans}, rows, cols] with at least one of them; got"
                         f" {list(x.shape)}.")
    _check_side(x.shape[2], x.shape[3])


def _check_side(rows: int, cols: int) -> None:
    if min(rows, cols) < PATCHES[0]:
        raise UsageError(f"An image of {rows}x{cols} pixels is smaller than a patch: it must be at least"
                         f" {PATCHES[0]}x{PATCHES[0]}.")


def _image_of(tokens: Tensor, grid: Grid) -> Tensor:
    """Return tokens [B, prefix + rows * cols, C] as an image [B, C, rows, cols], without the prefix."""
    return tokens[:, tokens.shape[1] - grid[0] * grid[1]:].mT.unflatten(-1, grid)


def _head(features: int, classes: int) -> nn.Module:
    return _init_linear(nn.Linear(features, classes)) if classes else nn.Identity()


def _init_linear(linear: nn.Linear) -> nn.Linear:
    trunc_normal_(linear.weight, std=0.02)
    nn.init.zeros_(linear.bias)
    return linear
