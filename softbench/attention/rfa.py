"""RFA: softmax attention of unit vectors through random features, f(q) (f(k)^T v) / (f(q) f(k)^T 1).

    kernel=gaussian: f(x) = [sin(W u), cos(W u)],   an unbiased estimate of r exp(-|u_q - u_k|^2 / (2 tau^2))
    kernel=arccos:   f(x) = relu(W u),              the arc-cosine kernel of first order; no estimate of softmax

with u = x / |x| and W [r, D] of normal numbers over tau, drawn from `seed`. As u are unit vectors, the Gaussian of
their distance is exp(q.k / (tau^2 |q| |k|)) up to a factor that cancels: with many features this is softmax attention
of the cosine of q and k at temperature tau^2. That is not the softmax attention of q k^T / sqrt(D), and so it is not
listed as approximating `softmax`. Work 4 N r D + 8 N r E + 4 N r operations a head for `gaussian`, half of the last two
for `arccos`; memory 2 N r.

Sines and cosines have either sign, and so have estimates of small kernels; the mean over the keys that is divided by is
therefore kept at or above eps (the authors' code does so for sums of features it scales by 0.01 to 0.1, which depends
on N and r; here it is the mean kernel). One W serves all heads, where the authors draw one for each. W is fixed: no
training-time redrawing, no learnt scale of W, no gate, which is for causal models. Lengths below 1e-12 count as 1e-12.
Features and sums are float32 for half inputs.

Source: Peng et al., Random Feature Attention, ICLR 2021 (arXiv 2103.02143), RFA-Gaussian and RFA-arccos; unit vectors
as there; r = 64 and tau = 1 are the defaults of the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from softbench.attention._feature_maps import normalised, quotient_flops
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.options import option

FAMILY = "feature map"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("eager",)

_LEAST_NORM = 1e-12


@dataclass(frozen=True)
class Options:
    features: int = option(64, "random vectors r; gaussian makes two features of each", low=1, high=65536, size=True)
    kernel: Literal["gaussian", "arccos"] = option("gaussian", "feature map: sines and cosines, or relu")
    tau: float = option(1.0, "W is divided by it", low=1e-3, high=1e3)
    eps: float = option(1e-2, "least normaliser, a mean over the keys of the estimated kernel", low=1e-30, high=1)
    seed: int = option(0, "seed of the random vectors", low=0)


class Rfa(nn.Module):
    projection: Tensor

    def __init__(self, head_dim: int, options: Options) -> None:
        super().__init__()
        self.options = options
        generator = torch.Generator().manual_seed(options.seed)
        drawn = torch.randn(options.features, head_dim, generator=generator, device="cpu") / options.tau  # W [r, D]
        self.register_buffer("projection", drawn.to(torch.get_default_device()))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc = accumulation_dtype(q.dtype)
        fq, fk = self._features(q.to(acc)), self._features(k.to(acc))  # [B, H, N, 2 r] or [B, H, N, r]
        eps = self.options.eps * self.options.features
        return normalised(fq, fk, v.to(acc), eps, clamp=True).to(v.dtype)

    def _features(self, x: Tensor) -> Tensor:
        unit = x / x.norm(dim=-1, keepdim=True).clamp_min(_LEAST_NORM)
        projected = unit @ self.projection.to(x.dtype).mT  # [B, H, N, r]
        if self.options.kernel == "arccos":
            return projected.relu_()
        return torch.cat([projected.sin(), projected.cos()], -1)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Rfa(shape.head_dim, options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d, r = shape.batch * shape.heads, shape.tokens, shape.head_dim, rank(shape, options)
    return Cost(flops=groups * (4.0 * n * options.features * d + quotient_flops(n, r, d)),
                elements=groups * n * (3 * r + options.features))


def rank(shape: Shape, options: Options) -> int:
    """The rank of the attention matrix is at most the number of features."""
    return options.features * (2 if options.kernel == "gaussian" else 1)
