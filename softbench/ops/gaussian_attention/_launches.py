"""Launches of the Triton kernels of Gaussian attention: tile sizes, splits, and memory for the results.

A sum over many keys for few queries is split over programs, and the parts are added in a second step. How it is split
depends on the number of keys alone, so that a sample's result is the same, bit for bit, in any batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from softbench.ops.gaussian_attention import _distances, _kernels

RESIDENT = 64  # keys that one program holds while queries stream past
_TILES = 4  # tiles of queries that such a program takes
LARGEST_TILE = 128  # of a tile, and of its columns; offsets within a tile have 32 bits, those between tiles 64
_FEW = 256  # queries up to which the keys are split
_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@dataclass(frozen=True)
class Launch:
    """Sizes of one launch: rows of the tiles that are owned and streamed, warps of a program, tiles loaded ahead."""

    owned: int
    streamed: int
    warps: int
    stages: int


def launch_sizes(owned: int, width: int, arithmetic: str, gradient: bool) -> Launch:
    """Return the tiles for a program that owns some of `owned` tokens and streams the other side past them.

    Chosen so that a program's registers suffice, by the compiler's report for compute capability 9.0. A gradient holds
    two more tiles, and float32 products without TF32 ("ieee") keep their factors in registers.

    Args:
        width: the larger of the dims of tokens and values.
        arithmetic: how products are taken, "half", "tf32" or "ieee".
    """
    wide = width > 64
    if arithmetic == "ieee":
        return Launch(32, 16 if wide else 32, 8, 2)
    rows = 128 if arithmetic == "half" and not wide and not gradient else 64
    streamed = 64 // (2 if gradient else 1) // (2 if wide and arithmetic == "tf32" else 1)
    return Launch(min(rows, max(16, triton.next_power_of_2(owned))), streamed, 4, 2 if wide else 3)


def _few_keys_launch(width: int, arithmetic: str) -> Launch:
    """Return the tiles for a program that owns all keys, at most RESIDENT, and streams queries past them.

    Of half numbers up to 64 dims, the loop for ordinary tokens leaves room for two such programs on a multiprocessor;
    with the loop for far ones a thread of 64 dims takes 251 registers, and one fits.
    """
    if arithmetic == "ieee":
        return Launch(RESIDENT, 32, 8, 2)
    if arithmetic == "half":
        return Launch(RESIDENT, 128, 8, 3 if width <= 32 else 2)
    return Launch(RESIDENT, 64, 4 if width <= 64 else 8, 2)


def _landmark_launch(arithmetic: str) -> Launch:
    """Return the tiles for a program that owns all landmarks, for all their gradients."""
    return {"half": Launch(RESIDENT, 32, 4, 2), "tf32": Launch(RESIDENT, 32, 8, 2),
            "ieee": Launch(RESIDENT, 16, 8, 1)}[arithmetic]


def attend(x: Tensor, k: Tensor, v: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """y_i = sum_j exp(-scale |x_i - k_j|^2 / 2) v_j, in `dtype`."""
    (_, heads, queries, head_dim), keys, value_dim = x.shape, k.shape[2], v.shape[3]
    half, width = _half(x, k, v), max(head_dim, value_dim)
    x, k, v = near(x), near(k), near(v)
    splits, share = split(queries, keys)
    y = result(x, value_dim, dtype)
    if not y.numel() * keys:
        return y.zero_()
    groups, rate, reach = x.shape[0] * heads, scale * math.log2(math.e), _reach(head_dim, half)
    strides = *x.stride(), *k.stride(), *v.stride()
    with torch.cuda.device_of(x):
        if keys <= RESIDENT < queries:
            sizes = _few_keys_launch(width, _arithmetic(half))
            share = _TILES * sizes.streamed
            _kernels.attend_streaming_queries[(groups * triton.cdiv(queries, share),)](
                x, k, v, y, *strides, *y.stride()[:3], heads, queries, keys, share, rate, reach,
                BLOCK_N=sizes.streamed, BLOCK_M=max(16, triton.next_power_of_2(keys)),
                **_constants(head_dim, value_dim, half, sizes))
            return y
        sizes, parts = launch_sizes(queries, width, _arithmetic(half), gradient=False), _parts(y, splits)
        _kernels.attend_streaming_keys[(groups * triton.cdiv(queries, sizes.owned) * splits,)](
            x, k, v, parts, *strides, *parts.stride()[:4], heads, queries, keys, splits, share, rate, reach,
            BLOCK_N=sizes.owned, BLOCK_M=sizes.streamed, **_constants(head_dim, value_dim, half, sizes))
        return _summed(y, parts)


def differentiate(x: Tensor, k: Tensor, p: Tensor, q: Tensor, scale: float, dtype: torch.dtype | None = None) -> Tensor:
    """dx_i = scale sum_j exp(-scale |x_i - k_j|^2 / 2) (p_i . q_j) (k_j - x_i), in `dtype` or that of x."""
    (_, heads, queries, head_dim), keys, value_dim = x.shape, k.shape[2], q.shape[3]
    half = _half(x, k, p, q)
    x, k, p, q = near(x), near(k), near(p), near(q)
    splits, share = split(queries, keys)
    dx = result(x, head_dim, dtype or x.dtype)
    if not dx.numel() * keys:
        return dx.zero_()
    sizes, parts = launch_sizes(queries, max(head_dim, value_dim), _arithmetic(half), gradient=True), _parts(dx, splits)
    with torch.cuda.device_of(x):
        _kernels.differentiate[(x.shape[0] * heads * triton.cdiv(queries, sizes.owned) * splits,)](
            x, k, p, q, parts, *x.stride(), *k.stride(), *p.stride(), *q.stride(), *parts.stride()[:4], heads, queries,
            keys, splits, share, scale * math.log2(math.e), _reach(head_dim, half), scale, BLOCK_N=sizes.owned,
            BLOCK_M=sizes.streamed, **_constants(head_dim, value_dim, half, sizes))
        return _summed(dx, parts)


def holds(points: Tensor, v: Tensor) -> bool:
    """True where one program can hold the landmarks with all that their gradients take."""
    return points.shape[2] <= RESIDENT and max(points.shape[3], v.shape[3]) <= 64


def differentiate_through_landmarks(x: Tensor, v: Tensor, dy: Tensor, points: Tensor, w: Tensor, dg: Tensor,
                                    scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of y = P^T M P v by x, points and v, given w = M P v and dg = M^T P dy; at most RESIDENT points."""
    (_, heads, tokens, head_dim), count, value_dim = x.shape, points.shape[2], v.shape[3]
    half = _half(x, v, dy)
    x, v, dy = near(x), near(v), near(dy)
    sizes = _landmark_launch(_arithmetic(half))
    splits, share = split(1, tokens)
    dx, dv = result(x, head_dim, x.dtype), result(x, value_dim, v.dtype)
    parts = points.new_empty(splits, *points.shape)
    points, w, dg = points.contiguous(), w.contiguous(), dg.contiguous()
    if x.shape[0] * heads * tokens:
        with torch.cuda.device_of(x):
            _kernels.differentiate_through_landmarks[(x.shape[0] * heads * splits,)](
                x, v, dy, points, w, dg, dx, dv, parts, *x.stride(), *v.stride(), *dy.stride(), *dx.stride()[:3],
                *dv.stride()[:3], heads, tokens, count, share, scale * math.log2(math.e), _reach(head_dim, half), scale,
                BLOCK_N=sizes.streamed, BLOCK_M=sizes.owned, **_constants(head_dim, value_dim, half, sizes))
    return dx, parts.sum(0), dv


def near(x: Tensor) -> Tensor:
    """x, or a copy of it where the tokens of one tile lie further apart than offsets of 32 bits reach."""
    return x if LARGEST_TILE * max(x.stride()[2:]) < 1 << 31 else x.contiguous()


def _half(*tensors: Tensor) -> torch.dtype:
    """The half precision type among these, in which products are then taken; float32 if there is none."""
    return next((t.dtype for t in tensors if t.dtype != torch.float32), torch.float32)


def split(queries: int, keys: int) -> tuple[int, int]:
    """Into how many parts a sum over keys is split, and how many keys there are in each."""
    share = max(512, min(4096, triton.next_power_of_2(keys) // 8))
    return (triton.cdiv(keys, share), share) if queries <= _FEW else (1, keys)


def result(x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Return an unwritten [B, H, N, width] for the tokens of x [B, H, N, D].

    Where the heads of a token of x lie side by side, so do those of the result: what follows in a model joins them.
    """
    b, h, n, _ = x.shape
    if x.stride(1) < x.stride(2):
        return x.new_empty(b, n, h, width, dtype=dtype).transpose(1, 2)
    return x.new_empty(b, h, n, width, dtype=dtype)


def _reach(dim: int, half: torch.dtype) -> float:
    """Half a squared norm, times log2(e), beyond which one product is not enough, as for plain torch.

    In half precision, where tokens are not moved and results are rounded to at most 11 bits, 16 times as much is.
    """
    return _distances.bound(torch.float32, dim) * math.log2(math.e) * (1 if half == torch.float32 else 16)


def _parts(whole: Tensor, splits: int) -> Tensor:
    """Room for what a kernel writes, [splits, B, H, N, width]: the result itself, or float32 parts of it."""
    return whole.unsqueeze(0) if splits == 1 else whole.new_empty(splits, *whole.shape, dtype=torch.float32)


def _summed(whole: Tensor, parts: Tensor) -> Tensor:
    return whole if len(parts) == 1 else whole.copy_(parts.sum(0))


def _arithmetic(half: torch.dtype) -> str:
    """How products are taken: of half numbers, or of float32 numbers as torch is told to take its own."""
    if half != torch.float32:
        return "half"
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _constants(head_dim: int, value_dim: int, half: torch.dtype, sizes: Launch) -> dict[str, Any]:
    """The constants that a kernel is compiled for."""
    arithmetic = _arithmetic(half)
    return {"D": head_dim, "E": value_dim, "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
            "BLOCK_E": max(16, triton.next_power_of_2(value_dim)), "half": _TYPES[half],
            "PRECISION": "tf32" if arithmetic == "tf32" else "ieee", "num_warps": sizes.warps,
            "num_stages": sizes.stages, "enable_fp_fusion": True}
