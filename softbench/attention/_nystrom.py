"""`soft` and `soft_norm` share this: Nystrom attention with a Gaussian kernel, P^T M P v.

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
from softbench.attention._feature_maps import check_odd
from softbench.attention._landmarks import CONVOLVED, LINEAR, Landmarks
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.ops import dispatch, pseudo_inverse
from softbench.ops._common import uncast
from softbench.ops.gaussian_attention import gaussian_kernel, landmark_attention
from softbench.options import option


@dataclass(frozen=True)
class Options:
    landmarks: int = option(49, "landmarks m, at any number of tokens", low=1, high=4096, size=True)
    sampling: Literal["avg", "conv", "conv_ratio", "random", "first", "strided", "kmeans", "rpcholesky"] = option(
        "avg", "how landmarks are pooled or picked")
    window: int = option(0, "side of the windows of conv and conv_ratio, in tokens (0: what gives the landmarks)",
                         low=0, high=256)
    inverse: Literal[pseudo_inverse.PerMatrix, "newton_batch"] = option("cholesky", "how the m x m kernel is inverted")
    iterations: int = option(0, "steps of an iterative inverse, 0: its usual number", low=0, high=1000)
    ridge: float = option(0.01, "added to the diagonal before inverting", low=0, high=1)
    conv: int = option(0, "size of the depthwise convolution of v that is added (odd, 0: none)", low=0, high=99)
    seed: int = option(0, "seed of random, kmeans and rpcholesky landmarks", low=0)

    def __post_init__(self) -> None:
        pseudo_inverse.check(self.inverse, self.ridge)
        check_odd(self.conv)


class Nystrom(nn.Module):
    """The common forward; a subclass says what M is."""

    def __init__(self, shape: Shape, options: Options, impl: str) -> None:
        super().__init__()
        self.options, self.impl = options, impl
        dispatch.register(impl)
        self.landmarks = Landmarks(options.sampling, options.landmarks, shape.grid, shape.head_dim, options.seed,
                                   options.window)
        self.conv = HeadwiseConv(shape.heads, options.conv) if options.conv else None

    @abstractmethod
    def middle(self, a: Tensor) -> Tensor:
        """M [B, H, m, m] from the kernel between landmarks."""

    def inverted(self, a: Tensor) -> Tensor:
        """A^+ by the chosen method; beside "triton" passes over the tokens, by a kernel where it has one."""
        o, impl = self.options, "auto" if self.impl == "triton" else self.impl
        return pseudo_inverse.pseudo_inverse(a, method=o.inverse, iterations=o.iterations or None,
                                             ridge=o.ridge, impl=impl)

    @uncast
    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, scale = accumulation_dtype(q.dtype), float(q.shape[-1]) ** -0.25  # to torch.jit.trace sizes are tensors
        if self.options.sampling not in LINEAR:
            landmarks = self.landmarks(q.to(acc) * scale, grid)  # [B, H, m, D]
        elif self.impl == "reference":
            landmarks = self.landmarks(q, grid, acc) * scale
        else:
            q, landmarks = self.landmarks.beside(q, grid, acc, self.impl)
            landmarks = landmarks * scale
        a = gaussian_kernel(landmarks, impl=self.impl)
        values = v if self.conv is None else v.to(acc)
        if _each_is_a_landmark(landmarks.shape[2], q.shape[2], self.options):  # P is A: its diagonal is exactly 1
            y = (a @ (self.middle(a) @ (a @ values.to(acc)))).to(values.dtype)
        else:
            y = landmark_attention(q, landmarks, self.middle(a), values, scale=scale, impl=self.impl)  # [B, H, N, E]
        return y if self.conv is None else (y + self.conv(values, grid)).to(v.dtype)


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
    scores = m**2 + (0 if _each_is_a_landmark(m, n, options) else n * m)
    flops = (2.0 * scores * d + 4.0 * n * m * d + 2.0 * m**2 * d
             + pseudo_inverse.flops(m, method=options.inverse, iterations=options.iterations or None,
                                    ridge=options.ridge)
             + _landmarks.sampling_flops(shape.grid, options.sampling, options.landmarks, d, options.window)
             + 2.0 * options.conv**2 * n * d)
    return Cost(flops=groups * flops, elements=groups * (n * (m + d) + 3 * m**2))


def parts(shape: Shape, options: Options) -> dict[str, float]:
    """FLOP of what makes the landmarks, of |x_i - l_j|^2 in both kernels, and of the inverse, for all heads."""
    groups, m = shape.batch * shape.heads, rank(shape, options)
    return {"landmarks": groups * _landmarks.sampling_flops(shape.grid, options.sampling, options.landmarks,
                                                            shape.head_dim, options.window),
            "distances": groups * 2.0 * (shape.tokens * m + m**2) * shape.head_dim,
            "inverse": groups * pseudo_inverse.flops(m, method=options.inverse, iterations=options.iterations or None,
                                                     ridge=options.ridge)}


def rank(shape: Shape, options: Options) -> int:
    """The number of landmarks m that there will be, which bounds the rank of S."""
    return _landmarks.landmark_count(shape.grid, options.sampling, options.landmarks, options.window)


def _each_is_a_landmark(count: int, tokens: int, options: Options) -> bool:
    return count == tokens and options.sampling not in CONVOLVED


def note(shape: Shape, options: Options) -> str:
    """Tell the reader of other landmarks than asked for, and of samples that depend on each other."""
    remarks = [_landmarks.landmark_note(shape.grid, options.sampling, options.landmarks, options.window)]
    if options.inverse in pseudo_inverse.LEAKING:
        remarks.append(f"{options.inverse} starts from the largest norm of the batch: results depend on other samples")
    return "; ".join(filter(None, remarks))
