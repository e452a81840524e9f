"""Half the negative squared distances, -|x - k|^2 / 2 = x.k - |x|^2 / 2 - |k|^2 / 2, of tokens of any length.

One matrix product gives all of them, but with the error of the squared norms, which may be far larger than a distance.
Both sides are moved by the mean of k first, which changes no distance. Where k has tokens far from its mean even so,
as in a few groups, or one that is very long, all that is done with that head is done in float64 (`by_reach`). In
float64, where tokens are far beyond that, both sides are moved by the mean of the nearer ones, and the distances of far
tokens to each other are taken from differences. No head's result depends on another head.

Batch and heads are flattened: x [G, N, D], k [G, M, D].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from softbench.ops._common import is_traced

NEAR = {torch.float32: 8.0, torch.float64: 2.0**29}  # half a squared norm for which one product is right to some 1e-6


Run = Callable[..., Tensor]


class Centred(NamedTuple):
    """k around its centre.

    Attributes:
        k: the tokens less the centre, [G, M, D].
        half_square: half their squared norms, [G, M].
        centre: [G, 1, D].
        far: the groups with tokens for which one product is not enough, [G]; None if there are none.
    """

    k: Tensor
    half_square: Tensor
    centre: Tensor
    far: Tensor | None


class Pairs(NamedTuple):
    """Both sides moved by one centre, [G, N, D] and [G, M, D], half their squared norms, and whether some are far.

    The product x.k [G, N, M] where it is there already.
    """

    x: Tensor
    k: Tensor
    half_x: Tensor
    half_k: Tensor
    far: bool
    product: Tensor | None = None

    def tile(self, g: slice, n: slice, m: slice) -> Pairs:
        return Pairs(self.x[g, n], self.k[g, m], self.half_x[g, n], self.half_k[g, m], self.far)


def centred(k: Tensor) -> Centred:
    """k around its mean; in float64, in groups that have far tokens, around the mean of those no farther than usual."""
    k = _ungraphed(k)
    centre = k.mean(1, keepdim=True)
    tokens = k - centre
    half = half_square(tokens)
    far = far_groups(half, k.shape[2])
    if far is None or k.dtype != torch.float64:
        return Centred(tokens, half, centre, far)
    usual = (half <= half.mean(1, keepdim=True)).to(k.dtype).unsqueeze(1)  # [G, 1, M]
    centre = torch.where(far[:, None, None], torch.bmm(usual, k) / usual.sum(2, keepdim=True), centre)
    tokens = k - centre
    return Centred(tokens, half_square(tokens), centre, far)


def pairs(x: Tensor, k: Tensor) -> tuple[Pairs, Tensor | None]:
    """Both sides around the centre of k, and the groups that are far."""
    keys = centred(k)
    x = _ungraphed(x) - keys.centre
    return Pairs(x, keys.k, half_square(x), keys.half_square, keys.far is not None), keys.far


def own_pairs(x: Tensor) -> tuple[Pairs, Tensor | None]:
    """Tokens with themselves; norms are the diagonal of their product, with which distances of 0 come out as 0."""
    if not is_replayed(x):
        tokens = _ungraphed(x)
        tokens = tokens - tokens.mean(1, keepdim=True)
        product = torch.bmm(tokens, tokens.mT)
        half = product.diagonal(dim1=1, dim2=2) / 2
        if far_groups(half, x.shape[2]) is None:
            return Pairs(tokens, tokens, half, half, False, product), None
    keys = centred(x)
    return Pairs(keys.k, keys.k, keys.half_square, keys.half_square, keys.far is not None), keys.far


def by_reach(run: Run, in_float64: Run, far: Tensor, *tensors: Tensor) -> Tensor:
    """run(*tensors), of [G, ...] and differentiable in all, and for the groups that are far in_float64(*tensors)."""
    if far.all():
        return in_float64(*tensors)
    near = ~far
    parts = [run(*(t[near] for t in tensors)), in_float64(*(t[far] for t in tensors))]
    order = torch.cat([near.nonzero(), far.nonzero()]).squeeze(1)
    return torch.cat(parts)[order.argsort()]


def exponents(p: Pairs) -> Tensor:
    """-|x - k|^2 / 2 of all pairs, [G, N, M]; rounding may make it positive."""
    if is_replayed(p.k):
        x, k = p.x.double(), p.k.double()
        product = torch.bmm(x, k.mT) - half_square(x).unsqueeze(2) - half_square(k).unsqueeze(1)
        return product.to(p.k.dtype)
    if p.product is not None:  # it is used up
        return p.product.sub_(p.half_x.unsqueeze(2)).sub_(p.half_k.unsqueeze(1))
    result = torch.baddbmm(-p.half_x.unsqueeze(2), p.x, p.k.mT).sub_(p.half_k.unsqueeze(1))
    return mend(result, p) if p.far else result


def mend(result: Tensor, p: Pairs) -> Tensor:
    """The exponents [G, N, M], those of far tokens to each other taken anew from differences, in place."""
    most = bound(p.k.dtype, p.k.shape[2])
    for group, x, k, far_x, far_k in zip(result, p.x, p.k, p.half_x > most, p.half_k > most, strict=True):
        rows, columns = far_x.nonzero().squeeze(1), far_k.nonzero().squeeze(1)
        distances = torch.cdist(x[rows], k[columns], compute_mode="donot_use_mm_for_euclid_dist")
        group[rows.unsqueeze(1), columns] = distances.square() / -2
    return result


def half_square(x: Tensor) -> Tensor:
    """|x|^2 / 2, [G, N]."""
    return torch.linalg.vector_norm(x, dim=2).square_().mul_(0.5)


def is_replayed(x: Tensor) -> bool:
    """True where operations are noted now, to run with other numbers later, in a program or a CUDA graph.

    These numbers decide nothing then: all products are in float64.
    """
    return (not x.is_meta and is_traced()) or (x.is_cuda and torch.cuda.is_current_stream_capturing())


def _ungraphed(x: Tensor) -> Tensor:
    """x for what has a derivative of its own; one taken forwards goes through."""
    return x.detach() if x.requires_grad else x


def far_groups(half: Tensor, dim: int) -> Tensor | None:
    """The groups with tokens whose half square is more than one product is enough for, [G]; None if there are none."""
    if type(half) is not Tensor or half.is_meta or not half.numel() or is_replayed(half):
        return None  # no numbers to look at, as of a FakeTensor, or none that decide
    most = bound(half.dtype, dim)
    return (half > most).any(1) if half.max().item() > most else None


def bound(dtype: torch.dtype, dim: int) -> float:
    """The largest half square that is not far; independent normal numbers over D^(1/4) have sqrt(D) / 2."""
    return max(NEAR[dtype], dim**0.5)
