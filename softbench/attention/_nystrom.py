"""What `soft` and `soft_norm` share: Nystrom attention with a Gaussian kernel, P^T M P v.

With tokens x = q / D^(1/4), landmarks l of x, and k(a, b) = exp(-|a - b|^2 / 2):
    A = k(l, l) [B, H, m, m],    P^T = k(x, l) [B, H, N, m],    y = P^T M(A) P v + conv(v).
The two attentions differ in M alone. Everything is computed in float32 for half inputs.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention import _landmarks
from softbench.attention._contract import Cost, accumulation_dtype, check_inputs
from softbench.attention._landmarks import Landmarks
from softbench.case import Shape
from softbench.errors import UsageError
from softbench.ops import pseudo_inverse
from softbench.ops.gaussian_attention import gaussian_kernel
from softbench.options import option


@dataclass(frozen=True)
class Options:
    landmarks: int = option(49, "landmarks m, at any number of tokens", low=1, high=4096)
    sampling: Literal["avg", "conv", "random", "first", "strided", "kmeans", "rpcholesky"] = option(
        "avg", "how landmarks are pooled or picked")
    inverse: pseudo_inverse.PerMatrix = option("cholesky", "how the m x m kernel is inverted")
    iterations: int = option(0, "steps of an iterative inverse, 0: its usual number", low=0, high=1000)
    ridge: float = option(0.01, "added to the diagonal before inverting", low=0, high=1)
    conv: int = option(0, "size of the depthwise convolution of v that is added (odd, 0: none)", low=0, high=99)
    seed: int = option(0, "seed of random, kmeans and rpcholesky landmarks", low=0)

    def __post_init__(self) -> None:
        pseudo_inverse.check(self.inverse, self.ridge)
        if self.conv and self.conv % 2 == 0:
            raise UsageError(f"conv must be odd, or 0 for none, not {self.conv}.")


class Nystrom(nn.Module):
    """The common forward; a subclass says what M is."""

    def __init__(self, shape: Shape, options: Options, impl: str) -> None:
        super().__init__()
        self.options, self.impl = options, impl
        self.landmarks = Landmarks(options.sampling, options.landmarks, shape.grid, shape.head_dim, options.seed)
        self.conv = HeadwiseConv(shape.heads, options.conv) if options.conv else None

    @abstractmethod
    def middle(self, a: Tensor) -> Tensor:
        """M [B, H, m, m] from the kernel between landmarks."""

    def inverted(self, a: Tensor) -> Tensor:
        """A^+ by the chosen method."""
        o = self.options
        return pseudo_inverse.pseudo_inverse(a, method=o.inverse, iterations=o.iterations or None,
                                             ridge=o.ridge, impl=self.impl)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        check_inputs(q, k, v, grid)
        acc = accumulation_dtype(q.dtype)
        x, values = q.to(acc) * q.shape[-1] ** -0.25, v.to(acc)
        landmarks = self.landmarks(x, grid)  # [B, H, m, D]
        middle = self.middle(gaussian_kernel(landmarks, impl=self.impl))  # [B, H, m, m]
        spread = gaussian_kernel(x, landmarks, impl=self.impl)  # P^T [B, H, N, m]
        if self.impl == "reference":
            y = (spread @ middle @ spread.mT) @ values  # S as in the paper, [B, H, N, N]
        else:
            y = spread @ (middle @ (spread.mT @ values))  # [B, H, N, E]
        if self.conv is not None:
            y = y + self.conv(values, grid)
        return y.to(v.dtype)


class HeadwiseConv(nn.Module):
    """Depthwise convolution of v over the token grid, as in the official code: one filter a head, no bias."""

    def __init__(self, heads: int, size: int) -> None:
        super().__init__()
        self.filters = nn.Conv2d(heads, heads, size, padding=size // 2, groups=heads, bias=False)

    def forward(self, v: Tensor, grid: tuple[int, int]) -> Tensor:
        b, h, n, e = v.shape
        image = v.permute(0, 3, 1, 2).reshape(b * e, h, *grid)
        image = F.conv2d(image, self.filters.weight.to(v.dtype), padding=self.filters.padding, groups=h)
        return image.reshape(b, e, h, n).permute(0, 2, 3, 1)  # [B, H, N, E]


def cost(shape: Shape, options: Options) -> Cost:
    """A and P 2 (m^2 + N m) D, P v and P^T (M P v) 4 N m D, M (P v) 2 m^2 D, the inverse, the convolutions."""
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    m = rank(shape, options)
    flops = (2.0 * (m**2 + n * m) * d + 4.0 * n * m * d + 2.0 * m**2 * d
             + pseudo_inverse.flops(m, method=options.inverse, iterations=options.iterations or None)
             + _landmarks.sampling_flops(shape.grid, options.sampling, options.landmarks, d)
             + 2.0 * options.conv**2 * n * d)
    return Cost(flops=groups * flops, elements=groups * (n * (m + d) + 3 * m**2))


def rank(shape: Shape, options: Options) -> int:
    """The number of landmarks m that there will be, which bounds the rank of S."""
    return _landmarks.landmark_count(shape.grid, options.sampling, options.landmarks)


def note(shape: Shape, options: Options) -> str:
    return _landmarks.landmark_note(shape.grid, options.sampling, options.landmarks)
