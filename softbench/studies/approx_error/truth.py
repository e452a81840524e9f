"""Exact attention of one head, by rows: what an estimate is compared with, at any number of tokens.

q, k are [N, D] and v is [N, E], in float64. `rows` gives rows of the N x N matrix S, never all of it; `output` is S v
for some rows, differentiable in q, k and v.

- `softmax`: S = softmax(q k^T / sqrt(D)).
- `gaussian`: S_ij = exp(-|q_i - k_j|^2 / (2 sqrt(D))).
- `gaussian_normalised`: C S C, C = D^(-1/2), with the Gaussian S, q = k and
  D_i = 1 + (m - 1) / (N - 1) sum_{j != i} S_ij. SOFT++ takes D from the kernel between its m landmarks; this D is what
  those row sums are on average where landmarks are tokens drawn at random. With D over all N tokens its matrix would be
  off by a factor up to N / m and nothing else would be seen; at m = N both agree, and this is the symmetric
  normalisation of the paper. There, with every token a landmark, SOFT++ is S C S^+ C S, which equals C S C only if all
  D_i are alike: its error need not end at 0.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

from torch import Tensor
from torch.nn import functional as F

from softbench.ops.gaussian_attention import gaussian_attention, gaussian_kernel

TILE = 1 << 21  # entries of S held at once: 16 MiB


class Truth(ABC):
    """The exact matrix of one head. `symmetric` where S is symmetric positive semi-definite."""

    symmetric: bool

    def __init__(self, q: Tensor, k: Tensor) -> None:
        self.q, self.k = q, k

    @abstractmethod
    def rows(self, index: Tensor) -> Tensor:
        """S[index], [n, N], newly allocated."""

    def single(self) -> Self:
        """Return the same matrix in float32."""
        other = copy.copy(self)
        other.q = self.q.float()
        other.k = other.q if self.k is self.q else self.k.float()
        return other

    @abstractmethod
    def output(self, q: Tensor, k: Tensor, v: Tensor, index: Tensor) -> Tensor:
        """(S v)[index] [n, E] as a function of all of q, k, v."""


class Softmax(Truth):
    """Rows that sum to 1."""

    symmetric = False

    def rows(self, index: Tensor) -> Tensor:
        scores = (self.q[index] * self.q.shape[1] ** -0.5) @ self.k.mT
        scores.sub_(scores.amax(1, keepdim=True)).exp_()
        return scores.div_(scores.sum(1, keepdim=True))

    def output(self, q: Tensor, k: Tensor, v: Tensor, index: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q[index][None, None], k[None, None], v[None, None])[0, 0]


class Gaussian(Truth):
    """Rows of a kernel, as they are."""

    def __init__(self, q: Tensor, k: Tensor) -> None:
        super().__init__(q, k)
        self.symmetric = k is q

    def rows(self, index: Tensor) -> Tensor:
        scale = self.q.shape[1] ** -0.25
        scores = gaussian_kernel((self.q[index] * scale)[None, None], (self.k * scale)[None, None])[0, 0]
        if self.symmetric:
            scores.scatter_(1, index.unsqueeze(1), 1)  # the distance of huge tokens to themselves is rounding alone
        return scores

    def output(self, q: Tensor, k: Tensor, v: Tensor, index: Tensor) -> Tensor:
        return _weighted(q[index], k, v)


class NormalisedGaussian(Gaussian):
    """The kernel, scaled on both sides; `size` is m."""

    def __init__(self, q: Tensor, k: Tensor, size: int) -> None:
        super().__init__(q, k)
        self.size = size
        self.c = self._scale(q, k).squeeze(1)  # [N]

    def single(self) -> Self:
        other = super().single()
        other.c = self.c.float()
        return other

    def rows(self, index: Tensor) -> Tensor:
        return super().rows(index).mul_(self.c).mul_(self.c[index].unsqueeze(1))

    def output(self, q: Tensor, k: Tensor, v: Tensor, index: Tensor) -> Tensor:
        c = self._scale(q, k)
        return c[index] * _weighted(q[index], k, c * v)

    def _scale(self, q: Tensor, k: Tensor) -> Tensor:
        """D^(-1/2) [N, 1]."""
        others = _weighted(q, k, k.new_ones(len(k), 1)) - 1
        return (1 + others * ((self.size - 1) / max(1, len(k) - 1))).rsqrt()


KINDS = ("softmax", "gaussian", "gaussian_normalised")


def truth(kind: str, q: Tensor, k: Tensor, size: int) -> Truth:
    """The exact attention of that kind; `size` is the m that `gaussian_normalised` needs."""
    if kind == "softmax":
        return Softmax(q, k)
    return Gaussian(q, k) if kind == "gaussian" else NormalisedGaussian(q, k, size)


def tiles(index: Tensor, tokens: int) -> Iterator[Tensor]:
    """The row numbers in pieces, so that a piece of S stays within TILE entries."""
    yield from index.split(max(1, TILE // tokens))


def _weighted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scale = q.shape[1] ** -0.25
    return gaussian_attention((q * scale)[None, None], (k * scale)[None, None], v[None, None])[0, 0]
