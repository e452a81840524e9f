"""Gaussian attention: `y_i = sum_j exp(-|x_i - k_j|^2 / 2) v_j`, and the scores themselves.

Shapes: x is [B, H, N, D], k is [B, H, M, D], v is [B, H, M, E]. A scale in the exponent belongs into x and k: tokens
times D^(-1/4) give exp(-|q - k|^2 / (2 sqrt(D))), the attention of SOFT (NeurIPS 2021, equations 4 and 5).

Half precision is computed in float32, and autocast changes nothing. Scores in half precision would be rounded before
they are summed, so `gaussian_kernel` returns float32 for half inputs; `gaussian_attention` returns the dtype of v.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from softbench.case import Shape
from softbench.ops import dispatch
from softbench.ops._common import HALF, in_forward_mode, uncast, widened
from softbench.ops.gaussian_attention import eager, reference

LARGEST = 128  # dims of tokens and values that the Triton kernels take


@uncast
def gaussian_attention(x: Tensor, k: Tensor, v: Tensor, *, scale: float = 1.0, impl: str = "auto") -> Tensor:
    """Sum the values weighted by the Gaussian kernel of tokens times `scale`, [B, H, N, E]; no N x M scores are kept.

    Differentiable once in x, k and v. Swapping the sides gives the gradient by v: `gaussian_attention(k, x, dy)`.

    Raises:
        Unsupported: no implementation of that name, or one that cannot run here.
    """
    module = _module(impl, x, k, v)
    if module in (eager, reference):
        x, k = (x, k) if scale == 1 else (widened(x) * scale, widened(k) * scale)
        return module.attention(x, k, v)
    return module.attention(x, k, v, scale)


@uncast
def gaussian_kernel(x: Tensor, k: Tensor | None = None, *, impl: str = "auto") -> Tensor:
    """The scores `exp(-|x_i - k_j|^2 / 2)` as a tensor, [B, H, N, M], for the cases where M is small.

    Without k the tokens are compared with themselves, and the diagonal is exactly 1. Differentiable once in x and k.
    Scores that are kept are no work for the Triton kernels: there "triton" means "eager".

    Raises:
        Unsupported: no implementation of that name.
    """
    name = dispatch.resolve("gaussian_kernel", impl, x.device, lambda: "")
    return (reference if name == "reference" else eager).kernel(x, x if k is None else k)


@uncast
def landmark_attention(x: Tensor, landmarks: Tensor, middle: Tensor, v: Tensor, *, scale: float = 1.0,
                       impl: str = "auto") -> Tensor:
    """Return attention through landmarks, `P^T M P v` with `P_ji = exp(-|l_j - scale x_i|^2 / 2)`: [B, H, N, E] like v.

    x is [B, H, N, D], landmarks are [B, H, m, D], already scaled, middle is M [B, H, m, m], v is [B, H, N, E]. A head
    sees nothing of the others. Where an implementation has no way of its own, this is `gaussian_attention` twice.
    Differentiable once in all four.

    Raises:
        Unsupported: no implementation of that name.
    """
    module = _module(impl, x, landmarks, v)
    # blocks of heads would fix the batch and fill the graph, and their buffers carry no derivative forwards
    if module is eager and (torch.compiler.is_compiling() or in_forward_mode()):
        p = eager.kernel(widened(x) * scale, landmarks)  # P^T [B, H, N, m]
        return (p @ (middle @ (p.mT @ widened(v)))).to(v.dtype)
    if hasattr(module, "by_landmarks"):
        return module.by_landmarks(x, landmarks, middle, v, scale)
    tokens, values = x.to(landmarks.dtype) * scale, v.to(landmarks.dtype)
    gathered = middle @ module.attention(landmarks, tokens, values)  # [B, H, m, E]
    return module.attention(tokens, landmarks, gathered).to(v.dtype)


def supports(impl: str, device: str, dtype: torch.dtype, shape: Shape | None = None) -> str:
    """Why an attention built on these cannot run as `impl` there; "" where it can. For its contract, with E = D."""
    if impl != "triton":
        return ""
    if device == "cpu":
        return "it needs an NVIDIA GPU, and the device is cpu"
    return dispatch.triton_lacks(device, dtype) or (_too_wide(shape.head_dim) if shape else "")


def _module(impl: str, *tensors: Tensor) -> ModuleType:
    name = dispatch.resolve("gaussian_attention", impl, tensors[0].device, lambda: _triton_lacks(*tensors))
    if name == "triton":
        from softbench.ops.gaussian_attention import triton

        return triton
    return {"eager": eager, "reference": reference}[name]


def _triton_lacks(*tensors: Tensor) -> str:
    dtypes = {t.dtype for t in tensors}
    if reason := dispatch.triton_lacks(tensors[0].device.type, *dtypes):
        return reason
    if dtypes.issuperset(HALF):
        return "float16 and bfloat16 do not go together"
    return _too_wide(max(t.shape[-1] for t in tensors))


def _too_wide(width: int) -> str:
    return f"tokens and values may have {LARGEST} dims at most, not {width}" if width > LARGEST else ""
