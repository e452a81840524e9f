"""Performer (FAVOR+): softmax attention through positive random features, f(q) (f(k)^T v) / (f(q) f(k)^T 1).

    kernel=softmax: f(x) = exp(W x - |x|^2 / 2 - c) + eps,  an unbiased estimate of exp(q.k / sqrt(D)) for eps = 0
    kernel=relu:    f(x) = relu(W x) + 0.001,               the generalised attention; no estimate of softmax

with x = q / D^(1/4) or k / D^(1/4). Rows of W [r, D] are orthogonal within blocks of D, with the lengths of normal
vectors; W is drawn from `seed`. Work 2 N r (2 D + 2 E + 1) operations, memory N r.

The stabiliser c is the largest exponent: of each query by itself, and of each head's keys over tokens and features
together. It cancels in the quotient up to eps, so that with eps = 0 the result is exactly that without c; eps is thus
relative to the largest feature, and keeps the quotient from 0 / 0 at large norms. In Google's code and those after it c
is the largest w.x alone (of keys, in the whole batch): features are then at most exp(-|x|^2 / 2) and eps, though as
large, counts for more the longer x is, so that it is another function but for eps = 0. The gradient goes through c,
which many codes detach, and so is that of the function computed at any eps. Features and sums are float32 for half
inputs. The factor 1 / sqrt(r) cancels and is left out.

Causal, row i is that of the first i tokens, c the largest exponent of their keys: what was summed is scaled down where
a later key has a larger one, a decay of the state [r, E + 1] (`_recurrence`).

Source: Choromanski et al., Rethinking Attention with Performers, ICLR 2021 (arXiv 2009.14794), equation 5, Lemma 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention import _recurrence
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.ops._common import needs_grad
from softbench.options import option

FAMILY = "feature map"
COMPLEXITY = "N"
APPROXIMATES = "softmax"
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "either"
IMPLS = ("eager",)

_RELU_FLOOR = 1e-3


@dataclass(frozen=True)
class Options:
    features: int = option(256, "random features r", low=1, high=65536, size=True)
    kernel: Literal["softmax", "relu"] = option("softmax", "feature map: positive features of softmax, or relu")
    eps: float = option(1e-6, "added to each softmax feature, relative to the largest", low=0, high=1)
    seed: int = option(0, "seed of the random projection", low=0)


class Performer(nn.Module):
    projection: Tensor

    def __init__(self, head_dim: int, options: Options, causal: bool = False) -> None:
        super().__init__()
        self.options, self.causal = options, causal
        projection = orthogonal_features(options.features, head_dim, options.seed)  # W [r, D]
        self.register_buffer("projection", projection.to(torch.get_default_device()))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc = accumulation_dtype(q.dtype)
        fq = self._features(q.to(acc), query=True)  # [B, H, N, r]
        if self.causal:
            return self._causal(fq, k.to(acc), v.to(acc)).to(v.dtype)
        fk = self._features(k.to(acc), query=False)  # [B, H, N, r]
        v, dtype = v.to(acc), v.dtype
        if needs_grad(fq, fk, v):  # a column of ones brings the norm along, and its gradients: no pass of their own
            sums = fq @ (fk.mT @ F.pad(v, (0, 1), value=1.0))  # [B, H, N, E + 1]
            return (sums[..., :-1] * sums[..., -1:].reciprocal()).to(dtype)
        norm = fq @ fk.sum(-2).unsqueeze(-1)  # [B, H, N, 1]
        return (fq @ (fk.mT @ v) / norm).to(dtype)

    def _features(self, x: Tensor, query: bool) -> Tensor:
        x = x * x.shape[-1] ** -0.25
        projection = self.projection.to(x.dtype)
        projected = x @ projection.mT  # [B, H, N, r]
        if self.options.kernel == "relu":
            return projected.relu() + _RELU_FLOOR
        if not needs_grad(x):
            exponent = projected.sub_(x.square().sum(-1, keepdim=True) / 2)
            return exponent.sub_(exponent.amax(-1 if query else (-2, -1), keepdim=True)).exp_().add_(self.options.eps)
        if query:
            exponent = projected.sub_(_query_shift(x, projection, projected.detach()))
        else:
            exponent = projected.sub_(_key_shift(x, projection, projected.detach()))
            with torch.no_grad():
                exponent.clamp_(max=1)  # at most 0 but for rounding, which grows with the tokens
        return exponent.exp_() + self.options.eps


    def _causal(self, fq: Tensor, k: Tensor, v: Tensor) -> Tensor:
        state = v.new_zeros(*fq.shape[:2], fq.shape[3], v.shape[3] + 1)
        if self.options.kernel == "relu":
            sums, _ = _recurrence.with_norm(fq, self._features(k, query=False), v, state, keep=False)
            return sums[..., :-1] / sums[..., -1:]
        x = k * k.shape[-1] ** -0.25
        exponent = x @ self.projection.to(x.dtype).mT - x.square().sum(-1, keepdim=True) / 2  # [B, H, N, r]
        largest = exponent.amax(-1).cummax(-1).values  # [B, H, N], of the keys so far
        fading = F.pad(largest[..., :-1] - largest[..., 1:], (1, 0))
        sums, _ = _recurrence.with_norm(fq, (exponent - largest.unsqueeze(-1)).exp(), v, state, fading, keep=False)
        every = F.pad(v, (0, 1), value=1.0).cumsum(-2)  # [B, H, N, E + 1], which eps adds to each feature
        sums = sums + self.options.eps * fq.sum(-1, keepdim=True) * every
        return sums[..., :-1] / sums[..., -1:]


def _query_shift(x: Tensor, projection: Tensor, projected: Tensor) -> Tensor:
    """|x|^2 / 2 + c = max_j w_j x for each query, [B, H, N, 1], through which a gradient costs N D and not N r."""
    largest, feature = projected.max(-1)
    again = (x * projection[feature]).sum(-1)
    return (largest + (again - again.detach())).unsqueeze(-1)  # to the last digit, so that no exponent is above 0


def _key_shift(x: Tensor, projection: Tensor, projected: Tensor) -> Tensor:
    """|x|^2 / 2 + c for each key, with c the largest w_j x - |x|^2 / 2 of its head, [B, H, N, 1]."""
    half_square = x.square().sum(-1, keepdim=True) / 2
    token = (projected.amax(-1, keepdim=True) - half_square.detach()).argmax(2, keepdim=True)  # [B, H, 1, 1]
    feature = projected.take_along_dim(token, 2).argmax(-1)  # [B, H, 1]
    largest = (x.take_along_dim(token, 2) * projection[feature]).sum(-1, keepdim=True)  # [B, H, 1, 1]
    return half_square + largest - half_square.take_along_dim(token, 2)


def orthogonal_features(features: int, dim: int, seed: int) -> Tensor:
    """W [features, dim]: blocks of orthogonal rows, uniformly rotated, each row as long as a normal vector."""
    generator = torch.Generator().manual_seed(seed)
    blocks = -(-features // dim)
    q, r = torch.linalg.qr(torch.randn(blocks, dim, dim, generator=generator, device="cpu"))
    rotations = q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)  # without the signs Q is not uniform
    lengths = torch.randn(features, dim, generator=generator, device="cpu").norm(dim=1)
    return rotations.mT.reshape(-1, dim)[:features] * lengths.unsqueeze(1)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Performer(shape.head_dim, options, shape.causal)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d, r = shape.batch * shape.heads, shape.tokens, shape.head_dim, options.features
    if shape.causal:
        per = "head" if options.kernel == "softmax" else ""
        sums = _recurrence.cost(shape, features=r, values=d + 1, per=per)
        return Cost(flops=sums.flops + 4.0 * groups * n * r * d, elements=sums.elements + groups * n * (2 * r + d))
    return Cost(flops=2.0 * groups * n * r * (4 * d + 1), elements=groups * n * (4 * r + d))
