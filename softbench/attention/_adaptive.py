"""Landmarks chosen by the tokens themselves, for each matrix alone: k-means centres and randomly pivoted Cholesky.

Tokens x are [B, H, N, D], scaled so that the kernel is exp(-|x_i - x_j|^2 / 2); landmarks are [B, H, m, D]. Draws take
one fixed sequence of uniform numbers u_t from a seed, the same for every matrix, and choose by the inverse of each
matrix's own distribution: no call draws random numbers, and no matrix sees another.

Sources: Arthur and Vassilvitskii, k-means++, SODA 2007. Chen, Epperly, Tropp and Webber, Randomly pivoted Cholesky,
2022 (arXiv 2207.06503), Algorithm 2.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from softbench.ops.gaussian_attention import gaussian_kernel

SAMPLINGS = ("kmeans", "rpcholesky")
LLOYD_STEPS = 5
_LARGEST_UNIFORM = 1 - 2**-20  # below 1 in float32 too


def landmarks(x: Tensor, sampling: str, count: int, seed: int) -> Tensor:
    """[B, H, m, D], differentiable in x with the choice held fixed; all tokens where there are no more than `count`."""
    if x.shape[2] <= count:
        return x
    flat = x.flatten(0, 1)  # [G, N, D]
    generator = torch.Generator().manual_seed(seed)
    uniforms = torch.rand(count, generator=generator, dtype=torch.float64, device="cpu")  # whatever torch's default is
    uniforms = uniforms.clamp_(max=_LARGEST_UNIFORM).to(device=x.device, dtype=x.dtype)
    chosen = _kmeans(flat, uniforms) if sampling == "kmeans" else _gathered(flat, _pivots(flat.detach(), uniforms))
    return chosen.unflatten(0, x.shape[:2])


def flops(tokens: int, sampling: str, count: int, head_dim: int) -> float:
    """Count the operations for one head, of matrix products."""
    if tokens <= count:
        return 0.0
    if sampling == "kmeans":
        return 4.0 * LLOYD_STEPS * tokens * count * head_dim
    return 2.0 * tokens * (count - 1) * head_dim + tokens * (count - 1.0) * (count - 2)


def _kmeans(x: Tensor, uniforms: Tensor) -> Tensor:
    """Centres after Lloyd's steps from a k-means++ start, [G, m, D]. The last means carry the gradient; a centre that
    no token is nearest to stays where it was."""
    fixed = x.detach()
    centres = _gathered(fixed, _spread(fixed, uniforms))
    for step in range(LLOYD_STEPS):
        member = _membership(fixed, centres)  # [G, m, N]
        size = member.sum(2, keepdim=True)
        means = torch.bmm(member, x if step == LLOYD_STEPS - 1 else fixed) / size.clamp_min(1)
        centres = torch.where(size > 0, means, centres)
    return centres


def _membership(x: Tensor, centres: Tensor) -> Tensor:
    """1 where a centre is the one nearest to a token, else 0, [G, m, N]."""
    origin = x.mean(1, keepdim=True)  # tokens far from 0 would lose their digits
    moved = centres - origin
    nearness = torch.baddbmm(-moved.square().sum(2).unsqueeze(1) / 2, x - origin, moved.mT)  # [G, N, m]
    return torch.zeros_like(nearness).scatter_(2, nearness.argmax(2, keepdim=True), 1).mT


def _spread(x: Tensor, uniforms: Tensor) -> Tensor:
    """k-means++: tokens drawn in proportion to their squared distance from those drawn before, [G, m]."""
    weight = x.new_ones(x.shape[:2])  # [G, N]
    distance = torch.full_like(weight, torch.inf)
    free = weight.clone()
    picks = []
    for u in uniforms:
        pick = _draw(weight, free, u)
        picks.append(pick)
        free.scatter_(1, pick, 0)
        distance = torch.minimum(distance, (x - _gathered(x, pick)).square().sum(2))
        weight = distance.scatter(1, pick, 0)
    return torch.cat(picks, 1)


def _pivots(x: Tensor, uniforms: Tensor) -> Tensor:
    """Randomly pivoted Cholesky: tokens drawn in proportion to the diagonal of what the earlier ones leave of the
    kernel, [G, m]."""
    residual = x.new_ones(x.shape[:2])  # [G, N]
    free = residual.clone()
    factor = x.new_zeros(*x.shape[:2], len(uniforms))  # [G, N, m]
    picks = []
    for step, u in enumerate(uniforms):
        pick = _draw(residual, free, u)
        picks.append(pick)
        if step == len(uniforms) - 1:
            break
        free.scatter_(1, pick, 0)
        column = gaussian_kernel(x[None], _gathered(x, pick)[None])[0]  # [G, N, 1]
        if step:
            earlier = factor[:, :, :step]
            column = torch.baddbmm(column, earlier, _gathered(earlier, pick).mT, alpha=-1)
        column = column.squeeze(2)
        pivot = column.gather(1, pick)
        usable = pivot > _rounding(x)
        factor[:, :, step] = torch.where(usable, column / pivot.clamp_min(_rounding(x)).sqrt(), 0)
        residual = (residual - factor[:, :, step].square()).clamp_min(0) * free
    return torch.cat(picks, 1)


def _draw(weight: Tensor, free: Tensor, u: Tensor) -> Tensor:
    """The token of each matrix at share u of its summed weights, [G, 1]; of the free ones where no weight is left."""
    left = weight.sum(1, keepdim=True) > _rounding(weight) * weight.shape[1]
    cumulative = torch.where(left, weight, free).cumsum(1)
    drawn = torch.searchsorted(cumulative, u * cumulative[:, -1:], right=True)
    return drawn.clamp(max=weight.shape[1] - 1)


def _rounding(x: Tensor) -> float:
    return 8 * torch.finfo(x.dtype).eps


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    """Return rows of each matrix: x [G, N, D], index [G, m] -> [G, m, D]."""
    return x.gather(1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))
