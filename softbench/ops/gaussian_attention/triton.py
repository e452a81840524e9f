"""Gaussian attention on the GPU: Triton kernels, registered as operators of torch.

So that torch.compile, torch.export and FLOP counters see each as one node, which autocast leaves as it is:

    softbench::gaussian_attention(x, k, v, scale, dtype)    y_i  = sum_j s_ij v_j
    softbench::gaussian_gradient(x, k, p, q, scale)         dx_i = scale sum_j s_ij (p_i . q_j) (k_j - x_i)
    softbench::landmark_attention(x, points, middle, v, scale)              y = P^T M P v, and P v
    softbench::landmark_gradients(x, points, middle, v, gathered, dy, scale)    the gradients of y by the first four

with s_ij = exp(-scale |x_i - k_j|^2 / 2) and P_ji = s_ij for k = points. All gradients of the first are made of the
first two: dv by the first with the sides swapped, dx by the second with p = dy and q = v, dk by the second with the
sides swapped. Tensors are float32, or of one half precision type, or some of either; sums are float32. They may be
strided: tokens and values are never copied.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from softbench.ops._common import once
from softbench.ops.gaussian_attention import _flops, _launches


def attention(x: Tensor, k: Tensor, v: Tensor, scale: float = 1.0) -> Tensor:
    """The weighted sums; x [B, H, N, D], k [B, H, M, D], v [B, H, M, E] -> [B, H, N, E] in the dtype of v."""
    y: Tensor = _attention(x, k, v, scale**2, v.dtype)
    return y


def by_landmarks(x: Tensor, landmarks: Tensor, middle: Tensor, v: Tensor, scale: float) -> Tensor:
    """P^T M P v; x [B, H, N, D], landmarks [B, H, m, D], middle [B, H, m, m], v [B, H, N, E] -> [B, H, N, E] like v.

    The landmarks are scaled and the tokens are not; the kernels take the scale into the exponent.
    """
    y: Tensor = _through(x, landmarks / scale, middle, v, scale**2)[0]
    return y


@torch.library.custom_op("softbench::gaussian_attention", mutates_args=())
def _attention(x: Tensor, k: Tensor, v: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return _launches.attend(x, k, v, scale, dtype)


@torch.library.custom_op("softbench::gaussian_gradient", mutates_args=())
def _gradient(x: Tensor, k: Tensor, p: Tensor, q: Tensor, scale: float) -> Tensor:
    return _launches.differentiate(x, k, p, q, scale)


@torch.library.custom_op("softbench::landmark_attention", mutates_args=())
def _through(x: Tensor, points: Tensor, middle: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    gathered = _launches.attend(points, x, v, scale, points.dtype)  # [B, H, m, E]
    return _launches.attend(x, points, middle @ gathered, scale, v.dtype), gathered


@torch.library.custom_op("softbench::landmark_gradients", mutates_args=())
def _through_gradients(x: Tensor, points: Tensor, middle: Tensor, v: Tensor, gathered: Tensor, dy: Tensor,
                       scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dw = _launches.attend(points, x, dy, scale, points.dtype)  # [B, H, m, E]
    w, dg, dm = middle @ gathered, middle.mT @ dw, dw @ gathered.mT
    if _launches.holds(points, v):
        dx, dpoints, dv = _launches.differentiate_through_landmarks(x, v, dy, points, w, dg, scale)
        return dx, dpoints, dm, dv
    dx = (_launches.differentiate(x, points, dy, w, scale, points.dtype)
          + _launches.differentiate(x, points, v, dg, scale, points.dtype)).to(x.dtype)
    dpoints = (_launches.differentiate(points, x, w, dy, scale, points.dtype)
               + _launches.differentiate(points, x, dg, v, scale, points.dtype))
    return dx, dpoints, dm, _launches.attend(x, points, dg, scale, v.dtype)


@_attention.register_fake
def _(x: Tensor, k: Tensor, v: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    return _launches.result(x, v.shape[3], dtype)


@_gradient.register_fake
def _(x: Tensor, k: Tensor, p: Tensor, q: Tensor, scale: float) -> Tensor:
    return _launches.result(x, x.shape[3], x.dtype)


@_through.register_fake
def _(x: Tensor, points: Tensor, middle: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return _launches.result(x, v.shape[3], v.dtype), _launches.result(points, v.shape[3], points.dtype)


@_through_gradients.register_fake
def _(x: Tensor, points: Tensor, middle: Tensor, v: Tensor, gathered: Tensor, dy: Tensor,
      scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (_launches.result(x, x.shape[3], x.dtype), torch.empty_like(points, memory_format=torch.contiguous_format),
            middle.new_empty(middle.shape), _launches.result(x, v.shape[3], v.dtype))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.scale = inputs[3]


@once
def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (x, k, v), scale, needed = ctx.saved_tensors, ctx.scale, ctx.needs_input_grad
    return (_gradient(x, k, dy, v, scale) if needed[0] else None,
            _gradient(k, x, v, dy, scale) if needed[1] else None,
            _attention(k, x, dy, scale, v.dtype) if needed[2] else None, None, None)


def _save_through(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], output[1])
    ctx.scale = inputs[4]


@once
def _backward_through(ctx: Any, dy: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_through_gradients(*ctx.saved_tensors, dy, ctx.scale), None


_attention.register_autograd(_backward, setup_context=_save)
_through.register_autograd(_backward_through, setup_context=_save_through)


@register_flop_formula(torch.ops.softbench.gaussian_attention)
def _attention_flops(x: torch.Size, k: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
    return int(_flops.attention(math.prod(x[:2]), x[2], k[2], x[3], v[3]))


@register_flop_formula(torch.ops.softbench.gaussian_gradient)
def _gradient_flops(x: torch.Size, k: torch.Size, p: torch.Size, *_: Any, **__: Any) -> int:
    return int(_flops.gradient(math.prod(x[:2]), x[2], k[2], x[3], p[3]))


@register_flop_formula(torch.ops.softbench.landmark_attention)
def _through_flops(x: torch.Size, points: torch.Size, middle: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
    return int(_flops.through_landmarks(math.prod(x[:2]), x[2], points[2], x[3], v[3]))


@register_flop_formula(torch.ops.softbench.landmark_gradients)
def _through_gradients_flops(x: torch.Size, points: torch.Size, middle: torch.Size, v: torch.Size, *_: Any,
                             **__: Any) -> int:
    return int(_flops.through_landmarks_gradients(math.prod(x[:2]), x[2], points[2], x[3], v[3]))
