"""An encoder of sequences and small images with any attention in its blocks: what tasks are learned with.

Tokens are embedded (whole numbers by a table, numbers and patches linearly, an image patch by patch), get learned
positions, and go through pre-norm blocks: x <- x + attention(conv(LN(x))), x <- x + MLP(LN(x)). The convolution is
depthwise, of width 3 along a sequence and 3 x 3 on a grid, stands in front of q, k and v, and lets a token see which
came before it (`conv=False`: none). The attention sees a grid of 1 x N for a sequence, rows x cols for an image. Logits
are read at the mean of the tokens that are no padding, at a class token in front of a sequence, or at each query
position.

Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017; pre-norm as in Xiong et al., ICML 2020 (arXiv
2002.04745); the convolution before q, k, v as in Arora et al., Zoology, ICLR 2024, and So et al., Primer, NeurIPS 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench import options
from softbench.case import AttentionSpec
from softbench.contracts import attention as attentions
from softbench.contracts.attention import Attention
from softbench.contracts.task import Form
from softbench.errors import UsageError
from softbench.models.blocks import Grid, Mlp, ProjectedAttention
from softbench.options import option


@dataclass(frozen=True)
class Size:
    """How large an encoder is."""

    width: int = option(64, "channels of a token", low=1, high=1 << 14)
    depth: int = option(2, "blocks", low=1, high=256)
    heads: int = option(2, "heads of each attention, a divisor of the width", low=1)
    mlp_ratio: float = option(2.0, "hidden over outer channels of the MLPs; 0 for none", low=0, high=16)
    conv: bool = option(True, "a depthwise convolution of width 3 in front of q, k and v")


class Encoder(nn.Module):
    """Inputs of a task -> logits [B, classes], or [B, Q, classes] at query positions [B, Q].

    Raises:
        UsageError: sizes that do not fit. Unsupported: the attention cannot run on the task's grid.
    """

    def __init__(self, form: Form, attention: Attention, size: Size, impl: str = "auto") -> None:
        super().__init__()
        if size.width % size.heads:
            raise UsageError(f"A width of {size.width} is not divided by {size.heads} heads.")
        if form.readout == "class token" and form.grid[0] > 1:
            raise UsageError("A class token stands in front of a sequence: on a grid there is no place for it.")
        self.form, self.size = form, size
        prefix = int(form.readout == "class token")
        self.grid = (form.grid[0], form.grid[1] + prefix)
        self.embed: nn.Module = (nn.Embedding(form.vocab, size.width) if form.vocab
                                 else nn.Linear(form.channels, size.width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width)) if prefix else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], size.width))
        self.blocks = nn.ModuleList(EncoderBlock(size, attention, self.grid, impl) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, form.classes)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and ".core." not in name:  # attentions know their own
                nn.init.trunc_normal_(module.weight, std=0.02 if module is self.head else module.weight.shape[-1]**-0.5)
            if isinstance(module, nn.Linear) and ".core." not in name:
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, inputs: Tensor, queries: Tensor | None = None) -> Tensor:
        """Inputs as `softbench.contracts.task.Samples` has them; queries [B, Q] where the task reads these."""
        x = self._embedded(inputs)  # [B, N, C]
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x, self.grid)
        return self.head(self._read(self.norm(x), inputs, queries))

    def _embedded(self, inputs: Tensor) -> Tensor:
        if self.form.vocab:
            return self.embed(inputs.long())
        if self.form.kind == "image":
            inputs = inputs.float() / 127.5 - 1
            side = self.form.patch
            inputs = F.pixel_unshuffle(inputs, side).flatten(2).mT  # [B, N, C * side * side]
        return self.embed(inputs.flatten(1, -2).to(self.pos_embed.dtype))

    def _read(self, x: Tensor, inputs: Tensor, queries: Tensor | None) -> Tensor:
        """The tokens [B, N, C] at which logits are read, [B, C] or [B, Q, C]."""
        if self.form.readout == "queries":
            if queries is None:
                raise UsageError("This task is read at query positions: give the model both, inputs and queries.")
            return x.gather(1, queries.long()[..., None].expand(-1, -1, x.shape[-1]))
        if self.form.readout == "class token":
            return x[:, 0]
        if not self.form.vocab:
            return x.mean(1)
        kept = (inputs != 0).to(x.dtype)[..., None]  # [B, N, 1]
        return (x * kept).sum(1) / kept.sum(1).clamp(min=1)


class EncoderBlock(nn.Module):
    """x <- x + attention(conv(LN(x))), x <- x + MLP(LN(x))."""

    def __init__(self, size: Size, attention: Attention, grid: Grid, impl: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        kernel = (1 if grid[0] == 1 else 3, 3)
        self.conv = nn.Conv2d(size.width, size.width, kernel, padding="same", groups=size.width) if size.conv else None
        self.attn = ProjectedAttention(size.width, size.heads, attention, grid, impl)
        self.mlp = Mlp(size.width, round(size.width * size.mlp_ratio)) if size.mlp_ratio else None

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """Return tokens [B, N, C] on their grid."""
        y = self.norm1(x)
        if self.conv is not None:
            y = self.conv(y.mT.unflatten(-1, grid)).flatten(2).mT
        x = x + self.attn(y, grid)
        return x if self.mlp is None else x + self.mlp(self.norm2(x))


def create(form: Form, attention: str, attn_options: Mapping[str, Any] | None = None, impl: str = "auto",
           **size: Any) -> Encoder:
    """An encoder for a task of that form, with an attention of the list or a file.

    Raises:
        UsageError: a name, an option or a size that does not exist or does not fit. Unsupported: the attention cannot
            run on that grid.
    """
    chosen = attentions.load(AttentionSpec(attention, dict(attn_options or {})))
    return Encoder(form, chosen, options.parse(Size, size, "the encoder"), impl)
