"""SOFT: Gaussian attention without softmax through m landmarks, S = P^T A^+ P, linear in N.

    x = q / D^(1/4), l = landmarks of x, A = k(l, l), P = k(l, x), y = P^T (A^+ (P v)),  k(a, b) = exp(-|a - b|^2 / 2)

Keys are the queries: `k` is not used. Work O(N m (2 D + 4 E)) for the products plus the inverse. Two things differ on
purpose from the official code: the number of landmarks does not grow with the image, and distances keep their digits in
half precision and far from 0 (float32, shifted by the mean landmark, float64 where that is not enough; clamped at 0).

The inverse of A + ridge I is `cholesky` by default, by the evidence of `softbench pinv` (m = 49, ridge 0.01, float32):
on kernels of photographs and of other tokens that are alike it is right to 1e-5, where the paper's 20 steps of `newton`
are 20 to 90 % away from the inverse; it does m^3 operations against 80 m^3, and on a CPU takes a third to a quarter of
the time; and its gradient, by the same formula, is that of the inverse, where that of an unconverged `newton` can point
against the gradient of its own result. `scaled_newton` is as right with matrix products alone, 10 steps of them, where
a factorisation is in the way. How they compare on a GPU has not been measured. A matrix that `cholesky` cannot factor,
which takes a ridge of 0, makes that head's output NaN.

`newton` is the paper's inverse. It stops after `iterations` steps, converged or not: where landmarks are alike (smooth
images) 20 are too few, and the result is a low-rank part of the inverse (see softbench/ops/pseudo_inverse).

Source: Lu et al., SOFT: Softmax-free Transformer with Linear Complexity, NeurIPS 2021 (arXiv 2110.11945), equations 4
to 9, Algorithms 1 and 2; the ridge and the options `conv` are those of the official code.
"""

from __future__ import annotations

from torch import Tensor, nn

from softbench.attention._nystrom import Nystrom, Options, cost, note, parts, rank
from softbench.case import Shape
from softbench.ops.gaussian_attention import supports

__all__ = ["APPROXIMATES", "COMPLEXITY", "FAMILY", "IMPLS", "LINEAR_IN_V", "OFFICIAL", "PYRAMID", "SHARES_QK",
           "Options", "build", "cost", "note", "parts", "rank", "supports"]

FAMILY = "landmark"
COMPLEXITY = "N"
APPROXIMATES = "gaussian"
SHARES_QK = True
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("triton", "eager", "reference")
PYRAMID = {"landmarks": 49, "sampling": "conv", "conv": (9, 5, 3)}  # as the official code, but with as many landmarks
OFFICIAL = {"sampling": "conv_ratio", "inverse": "newton", "iterations": 20, "ridge": 0.01}


class Soft(Nystrom):
    def middle(self, a: Tensor) -> Tensor:
        return self.inverted(a)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Soft(shape, options, impl)
