"""SOFT++: SOFT with symmetric normalisation, S = P^T D^(-1/2) A^+ D^(-1/2) P, D = diag(A 1).

A and P are those of `soft`, with its options: the ridge of 0.01 too, which the official code of SOFT++ does not have.
Outputs differ by it, by 9 to 13 % where that was measured; `ridge=0` leaves it out. A is inverted as it is and scaled
after, by the row sums of the kernel between landmarks, without the ridge, which lie in [1, m]; the norm of the middle
factor grows with m instead of m^2. What it estimates is therefore a normalised form of Gaussian attention: its distance
to `gaussian` contains the normalisation.

Each matrix has its own start value for newton, so that a sample never depends on its batch, and a kernel near the
identity (landmarks far apart) is inverted rightly; the official code takes one value for the batch, at which the
iteration gives 0 there.

Source: Lu et al., Softmax-free Linear Transformers, IJCV 2024 (arXiv 2207.03341), the symmetric normalisation.
"""

from __future__ import annotations

from torch import Tensor, nn

from softbench.attention._nystrom import Nystrom, Options, cost, note, parts, rank
from softbench.case import Shape
from softbench.ops.gaussian_attention import supports

__all__ = ["APPROXIMATES", "COMPLEXITY", "FAMILY", "IMPLS", "LINEAR_IN_V", "NORMALISED", "OFFICIAL", "PYRAMID",
           "SHARES_QK", "Options", "build", "cost", "note", "parts", "rank", "supports"]

FAMILY = "landmark"
COMPLEXITY = "N"
APPROXIMATES = "gaussian"
NORMALISED = True
SHARES_QK = True
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("triton", "eager", "reference")
PYRAMID = {"landmarks": 49, "sampling": "conv", "conv": (9, 5, 3)}  # as the official code, but with as many landmarks
OFFICIAL = {"sampling": "conv_ratio", "inverse": "newton_batch", "iterations": 20, "ridge": 0.0}


class SoftNorm(Nystrom):
    def middle(self, a: Tensor) -> Tensor:
        scale = a.sum(-1).rsqrt()  # D^(-1/2) [B, H, m]
        return scale.unsqueeze(-1) * self.inverted(a) * scale.unsqueeze(-2)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return SoftNorm(shape, options, impl)
