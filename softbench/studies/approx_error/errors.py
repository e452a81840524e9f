"""How far an estimated attention matrix and its gradients are from the exact ones, head by head, in tiles of rows.

The heads of one sample are taken together as one block-diagonal matrix: squares are summed, largest values compared.
q, k, v are [N, D] of one head in float64; S is the exact matrix, T the estimate. Rows may be a sample of all rows; the
numbers are then estimates, and `matrix_error` gives the standard error of the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softbench.studies.approx_error.estimate import DENSE, Rows, call, single
from softbench.studies.approx_error.truth import Truth, tiles

OVERLAP_ROWS = 1024  # rows a head whose largest entries are compared: sorting costs more than all else
_BLOCK = 4
_ROUNDING = 1e-12  # of the gradients, over the size of the cotangent times that of v


@dataclass(frozen=True)
class Squares:
    """Squared distance and squared size, of each row or of a whole, and their relative error."""

    distance: Tensor
    size: Tensor

    @staticmethod
    def joined(parts: Sequence[Squares]) -> Squares:
        return Squares(torch.cat([p.distance for p in parts]), torch.cat([p.size for p in parts]))

    @property
    def relative(self) -> float:
        """sqrt(sum distance / sum size); 0 where both vanish."""
        return _ratio(float(self.distance.sum()), float(self.size.sum())) ** 0.5

    @property
    def worst(self) -> float:
        """Return the largest relative error of a single row."""
        ratios = torch.where(self.distance == 0, 0.0, self.distance / self.size)
        return float(ratios.max().sqrt())

    @property
    def standard_error(self) -> float:
        """Of `relative`, where the rows are a random sample of many: the ratio estimator's, linearised."""
        error, count = self.relative, len(self.size)
        if not error or count < 2:
            return 0.0
        deviation = (self.distance - error**2 * self.size).std()
        return float(deviation / self.size.mean()) / (2 * error * count**0.5)


@dataclass(frozen=True)
class HeadErrors:
    """One head. `matrix`, `output`, `row_sums` and `overlap` hold a value for each row."""

    matrix: Squares
    output: Squares
    row_sums: Tensor
    overlap: Tensor


def head_errors(truth: Truth, rows: Rows, v: Tensor, index: Tensor, top: int) -> HeadErrors:
    """The rows `index` of T beside those of S, their sums, their `top` largest entries, and what they make of v."""
    tokens, stride = len(v), -(-len(index) // OVERLAP_ROWS)
    per_row = v.new_empty(5, len(index))  # allocated first: what small tensors are kept of a loop over tiles splits the
    overlap = v.new_empty(-(-len(index) // stride))  # memory that the tiles leave, which then never fits the next one
    done = 0
    for tile in tiles(index, tokens):
        exact, estimate = truth.rows(tile), rows(tile)  # [n, N]
        here = slice(done, done + len(tile))
        total = exact.sum(1)
        per_row[4, here] = (estimate.sum(1) - total).abs() / total
        compared = slice(-done % stride, None, stride)
        part = _overlap(exact[compared], estimate[compared], min(top, tokens))
        overlap[-(-done // stride) :][: len(part)] = part
        estimate.sub_(exact)
        per_row[0, here], per_row[1, here] = _square(estimate), _square(exact)
        per_row[2, here], per_row[3, here] = _square(estimate @ v), _square(exact @ v)
        done += len(tile)
        del exact, estimate, total, part
    return HeadErrors(Squares(per_row[0], per_row[1]), Squares(per_row[2], per_row[3]), per_row[4], overlap)


def gradient_errors(truth: Truth, module: nn.Module, v: Tensor, grid: tuple[int, int], index: Tensor,
                    cotangent: Tensor) -> dict[str, tuple[float, float]]:
    """Squared distance and size of the gradients by q, k, v of the sum of cotangent * output over the rows `index`.

    Only by q and v where k is q, with q in both its roles. Plain numbers, for the reason given in `head_errors`. A
    gradient of no more than rounding, as that by tokens which are all alike, is 0.
    """
    shared = truth.k is truth.q
    tensors = (truth.q, v) if shared else (truth.q, truth.k, v)
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    q, k, value = (leaves[0], leaves[0], leaves[1]) if shared else leaves
    with torch.enable_grad():
        exact = _gradients(truth.output(q, k, value, index), leaves, cotangent)
        estimate = _gradients(call(module, q, k, value, grid)[index], leaves, cotangent)
    names = ("dq", "dv") if shared else ("dq", "dk", "dv")
    nothing = float(_ROUNDING * cotangent.norm() * v.norm())
    exact, estimate = ([g if float(g.norm()) > nothing else torch.zeros_like(g) for g in side]
                       for side in (exact, estimate))
    return {name: (float((b - a).square().sum()), float(a.square().sum()))
            for name, a, b in zip(names, exact, estimate, strict=True)}


def spectral_norms(truth: Truth, rows: Rows) -> list[tuple[float, float]]:
    """||T - S||_2, and ||S||_2 too above DENSE tokens, each with the relative residual it was left with.

    Up to DENSE tokens both matrices are held; above, rows are made anew in each of a few passes, in float32.
    """
    tokens = len(truth.q)
    everything = torch.arange(tokens)
    if tokens <= DENSE:
        whole = rows(everything).sub_(truth.rows(everything))
        return largest_singular_values(lambda index: (whole[index],), tokens, tolerance=1e-6, passes=60)
    exact, estimate = truth.single(), single(rows)

    def both(index: Tensor) -> tuple[Tensor, ...]:
        tile = exact.rows(index)
        return estimate(index).sub_(tile), tile

    return largest_singular_values(both, tokens, tolerance=1e-3, passes=3)


def largest_singular_values(rows: Callable[[Tensor], tuple[Tensor, ...]], tokens: int, *, tolerance: float,
                            passes: int) -> list[tuple[float, float]]:
    """Largest singular value of some matrices given by their rows, and the relative residual it was left with.

    Block Krylov iteration on E^T E with full orthogonalisation, one pass over the rows a step, until every residual is
    within the tolerance. A value is never too large, and a singular value lies within the residual of it.
    """
    searches = [_Krylov(tokens) for _ in rows(torch.arange(1))]
    for _ in range(passes):
        images = [torch.zeros_like(search.newest) for search in searches]
        for tile in tiles(torch.arange(tokens), tokens):
            for part, search, image in zip(rows(tile), searches, images, strict=True):
                image += part.mT @ (part @ search.newest.to(part.dtype))
        for search, image in zip(searches, images, strict=True):
            search.extend(image)
        if all(search.exhausted or not search.residual > tolerance for search in searches):
            break
    return [(search.value, search.residual) for search in searches]


class _Krylov:
    """The search for the largest eigenvalue of E^T E: `newest` is to be multiplied by it, then given to `extend`."""

    def __init__(self, tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(tokens, min(_BLOCK, tokens), dtype=torch.float64, generator=generator)
        self.newest = torch.linalg.qr(start).Q
        self.basis = self.newest
        self.images = start[:, :0]
        self.value = self.residual = 0.0
        self.exhausted = False

    def extend(self, image: Tensor) -> None:
        if self.exhausted or not image.isfinite().all():
            self.value = self.value if self.exhausted else math.nan
            self.exhausted = True
            return
        self.images = torch.cat([self.images, image], 1)
        projected = self.basis.mT @ self.images
        values, vectors = torch.linalg.eigh((projected + projected.mT) / 2)
        square, ritz = max(0.0, float(values[-1])), vectors[:, -1]
        self.value = square**0.5
        distance = float((self.images @ ritz - square * (self.basis @ ritz)).norm())
        self.residual = distance / square / 2 if square else 0.0
        self.newest = _new_directions(image, self.basis)
        self.exhausted = not square or not self.newest.shape[1]
        self.basis = torch.cat([self.basis, self.newest], 1)


def _new_directions(image: Tensor, basis: Tensor) -> Tensor:
    """An orthonormal basis of what `image` adds to `basis`, as far as there is room for it."""
    for _ in range(2):  # once is not enough where hardly anything is left
        image = image - basis @ (basis.mT @ image)
        image = torch.linalg.qr(image).Q
    return image[:, : len(image) - basis.shape[1]]


def matrix_error(heads: Sequence[HeadErrors]) -> tuple[float, float]:
    """||T - S||_F / ||S||_F over all heads, and its standard error if the rows are a sample."""
    joined = Squares.joined([h.matrix for h in heads])
    return joined.relative, joined.standard_error


def row_quantities(heads: Sequence[HeadErrors]) -> dict[str, float]:
    """Sum up what else the rows say, over all heads."""
    matrix = Squares.joined([h.matrix for h in heads])
    return {
        "error_output": Squares.joined([h.output for h in heads]).relative,
        "worst_row": matrix.worst,
        "row_sum_error": float(torch.cat([h.row_sums for h in heads]).mean()),
        "topk_overlap": float(torch.cat([h.overlap for h in heads]).mean()),
    }


def gradient_quantities(heads: Sequence[dict[str, tuple[float, float]]]) -> dict[str, float]:
    """Return the relative errors of the gradients, over all heads."""
    return {f"error_{name}": _ratio(sum(h[name][0] for h in heads), sum(h[name][1] for h in heads)) ** 0.5
            for name in heads[0]}


def _gradients(output: Tensor, leaves: list[Tensor], cotangent: Tensor) -> list[Tensor]:
    gradients = torch.autograd.grad(output, leaves, cotangent, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, gradients, strict=True)]


def _square(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=1).square()


def _ratio(distance: float, size: float) -> float:
    if size == 0:
        return 0.0 if distance == 0 else math.inf
    return distance / size


def _overlap(exact: Tensor, estimate: Tensor, top: int) -> Tensor:
    """The share of the `top` largest entries of each row that the estimate has among its own, [n]."""
    mark = torch.zeros_like(exact, dtype=torch.bool).scatter_(1, exact.topk(top, 1).indices, True)
    return mark.gather(1, estimate.topk(top, 1).indices).double().mean(1)
