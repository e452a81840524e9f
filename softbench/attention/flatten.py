"""Focused linear attention (FLatten): relu features sharpened by a power, plus a depthwise convolution of v.

    y = f(q) (f(k)^T v) / (f(q) f(k)^T 1 + eps) + conv(v),   f(x) = |u| / |u^p| u^p,   u = max(x, 1e-6)

The power p turns each token towards its largest entries and keeps its length |u|. q, k [B, H, N, D] are taken as they
are. The convolution has a filter and a bias for each channel of a head, the same in all heads, so that v needs E = D
and its channels meet different matrices. It defines a kernel of its own. Work 4 N D E + 4 N D + 2 conv^2 N E operations
a head, memory N D.

`norm` says whether lengths are those of a token over all its heads, as in the authors' code, or of each head, as the
paper's formula for one head reads. eps is added to the mean over the keys, as in the authors' code. 1e-6 stands for
entries that are not positive, so that no token has length 0 (their code adds it to all). Their learnt scale of each
channel is left out: before training it is one number, which cancels up to eps; so are learnt positions added to k.
Powers are taken of u over its largest entry, which keeps them in range at any p. All is float32 for half inputs.

Source: Han et al., FLatten Transformer: Vision Transformer using Focused Linear Attention, ICCV 2023 (arXiv
2308.00442), the focused function and the rank restoration; p = 3 and conv = 5 are its defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from softbench.attention._feature_maps import DepthwiseConv, added, check_odd, over, quotient_flops
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.ops._common import needs_grad
from softbench.options import option

FAMILY = "feature map"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = False
CAUSAL = "never"
SAME_DIM = True
IMPLS = ("eager",)

_FLOOR = 1e-6


@dataclass(frozen=True)
class Options:
    power: float = option(3.0, "focusing factor p", low=1, high=64)
    conv: int = option(5, "size of the depthwise convolution of v that is added (odd, 0: none)", low=0, high=99)
    norm: Literal["token", "head"] = option("token", "lengths over all heads of a token, or of each head")
    eps: float = option(1e-6, "added to the normaliser, a mean over the keys", low=1e-30, high=1)

    def __post_init__(self) -> None:
        check_odd(self.conv)


class Flatten(nn.Module):
    def __init__(self, head_dim: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.conv = DepthwiseConv(1, head_dim, options.conv) if options.conv else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, kind = accumulation_dtype(q.dtype), v.dtype
        values = v.to(acc)
        (fq, size_q), (fk, size_k) = self._focused(q.to(acc)), self._focused(k.to(acc))
        share = 1 / q.shape[2]
        gathered = fk.mT @ (values * size_k) * share  # [B, H, D, E]
        mean = (fk.mT @ size_k.expand(-1, q.shape[1], -1, -1)) * share  # [B, H, D, 1]
        y = over(fq @ gathered, fq @ mean, self.options.eps / size_q)  # the size of a query cancels but for eps
        return added(y, values, self.conv, grid).to(kind)

    def _focused(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """w^p [B, H, N, D], w = u / max(u), and what it must be multiplied by, |u| / |w^p| [B, 1 or H, N, 1].

        The product is the same whatever u is divided by, so that no gradient goes through the maximum.
        """
        axes = (1, 3) if self.options.norm == "token" else (3,)
        u = x.clamp_min(_FLOOR)
        length = u.norm(dim=axes, keepdim=True)
        largest = u.detach().amax(axes, keepdim=True)
        focused = (u / largest if needs_grad(u) else u.div_(largest)).pow(self.options.power)
        return focused, length / focused.norm(dim=axes, keepdim=True)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Flatten(shape.head_dim, options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    flops = quotient_flops(n, d, d) + 2.0 * n * d + 2.0 * options.conv**2 * n * d
    return Cost(flops=groups * flops, elements=groups * (3 * n * d + d**2))
