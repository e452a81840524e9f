"""MLLA: linear attention with elu + 1, rotated by the position in the grid, plus a depthwise convolution of v.

    y_i = R_i f(q_i) mean_j (R_j f(k_j))^T v_j / (f(q_i) mean_j f(k_j)^T + eps) + conv(v)_i,   f(x) = elu(x) + 1

R_i turns pairs of neighbouring channels (2 c, 2 c + 1) by angles row * t or col * t: the first half of the pairs by
rows, the others by columns, with t = base^(-s / S) for the s-th of the S pairs of its half. Rotations are in the
numerator only, so that rows do not sum to 1. `rotation` says whether pairs are counted through all heads, as in the
authors' code (some heads then see rows only, others columns), or in each head. The last channel of an odd D is not
turned. The convolution (LePE) has a filter and a bias for each channel of each head, so that v needs E = D. It defines
a kernel of its own. Work 4 N D E + 2 N D + 2 conv^2 N E operations a head, memory N D.

This is the attention inside the block; its gate, its first convolution and its projections belong to the block. eps is
added to the mean over the keys, as in the authors' code. Everything is float32 for half inputs. Rotations are products
of complex numbers, which torch.compile leaves to eager code.

Source: Han et al., Demystify Mamba in Vision: A Linear Attention Perspective, NeurIPS 2024 (arXiv 2405.16605), where
LePE and RoPE stand for the forget gate; conv = 3, base = 10,000 and eps = 1e-6 are those of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from softbench.attention._feature_maps import (
    DepthwiseConv,
    added,
    check_odd,
    elu_plus_one,
    normalised,
    quotient_flops,
)
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.options import option

FAMILY = "feature map"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = False
CAUSAL = "never"
SAME_DIM = True
IMPLS = ("eager",)


@dataclass(frozen=True)
class Options:
    rotation: Literal["token", "head", "none"] = option(
        "token", "rotate pairs of channels counted through all heads, or in each head, or none")
    base: float = option(1e4, "base of the rotation's frequencies", low=1, high=1e9)
    conv: int = option(3, "size of the depthwise convolution of v that is added (odd, 0: none)", low=0, high=99)
    eps: float = option(1e-6, "added to the normaliser, a mean over the keys", low=0, high=1)

    def __post_init__(self) -> None:
        check_odd(self.conv)


class Mlla(nn.Module):
    def __init__(self, heads: int, head_dim: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.conv = DepthwiseConv(heads, head_dim, options.conv) if options.conv else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc = accumulation_dtype(q.dtype)
        values = v.to(acc)
        return added(self._attend(q.to(acc), k.to(acc), values, grid), values, self.conv, grid).to(v.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        fq, fk = elu_plus_one(q), elu_plus_one(k)  # [B, H, N, D]
        turned_q, turned_k = fq, fk
        pairs = q.shape[3] // 2
        if self.options.rotation != "none" and pairs:
            rotations = self._rotations(grid, q.shape[1], pairs, fq)
            turned_q, turned_k = _turned(fq, rotations), _turned(fk, rotations)
        return normalised(turned_q, turned_k, v, self.options.eps, norm_q=fq, norm_k=fk)

    def _rotations(self, grid: tuple[int, int], heads: int, pairs: int, like: Tensor) -> Tensor:
        """cos(a) + i sin(a) for the angle of each pair of channels, [H, N, pairs], or [1, N, pairs] for all heads."""
        total = heads * pairs if self.options.rotation == "token" else pairs
        by_rows = -(-total // 2)
        parts = []
        for axis, count in enumerate((by_rows, total - by_rows)):
            place = torch.arange(grid[axis], dtype=like.dtype, device=like.device).unsqueeze(-1)
            step = torch.arange(count, dtype=like.dtype, device=like.device) / max(1, count)
            angle = place * self.options.base**-step  # [rows or cols, S]
            parts.append(torch.view_as_complex(torch.stack([angle.cos(), angle.sin()], -1)).unsqueeze(1 - axis))
        table = torch.cat([part.expand(*grid, -1) for part in parts], -1)  # [rows, cols, total]
        return table.flatten(0, 1).unflatten(-1, (-1, pairs)).transpose(0, 1)


def _turned(x: Tensor, rotations: Tensor) -> Tensor:
    """x with its pairs of channels turned."""
    paired = x[..., :2 * rotations.shape[-1]]
    if x.stride(-1) != 1 or x.shape[-1] % 2:  # a complex number lies in neighbouring places, from an even one on
        paired = paired.contiguous()
    paired = paired.unflatten(-1, (-1, 2))
    y = torch.view_as_real(torch.view_as_complex(paired) * rotations).flatten(-2)
    return y if y.shape == x.shape else torch.cat([y, x[..., y.shape[-1]:]], -1)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Mlla(shape.heads, shape.head_dim, options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    flops = quotient_flops(n, d, d) + 2.0 * options.conv**2 * n * d
    return Cost(flops=groups * flops, elements=groups * (5 * n * d + d**2))
