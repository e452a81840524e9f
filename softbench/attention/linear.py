"""Linear attention: the feature map elu(x) + 1 in place of softmax, f(q) (f(k)^T v) / (f(q) f(k)^T 1).

    y_i = f(q_i) M / (f(q_i) m + eps),   M = mean_j f(k_j)^T v_j,   m = mean_j f(k_j)^T,   f(x) = elu(x) + 1

q and k [B, H, N, D] are taken as they are, without the 1 / sqrt(D) of softmax. It defines a kernel of its own, and
approximates no other attention. Work 4 N D E + 2 N D operations a head, memory N D.

M and m are means where the paper has sums: the quotient is the same, sums stay in range at any N, and eps (1e-6, which
the authors' code adds to the sum) means the same at any N. Everything is float32 for half inputs: codes that sum in
half precision return zeros once q m exceeds 65,504.

Source: Katharopoulos et al., Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention, ICML 2020
(arXiv 2006.16236), section 3.2 and equation 7 for the feature map; the default of eps is the authors' code's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from softbench.attention._feature_maps import elu_plus_one, normalised, quotient_flops
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


@dataclass(frozen=True)
class Options:
    eps: float = option(1e-6, "added to the normaliser, a mean over the keys", low=0, high=1)


class Linear(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc = accumulation_dtype(q.dtype)
        fq, fk = elu_plus_one(q.to(acc)), elu_plus_one(k.to(acc))  # [B, H, N, D]
        return normalised(fq, fk, v.to(acc), self.options.eps).to(v.dtype)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Linear(options)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    return Cost(flops=groups * quotient_flops(n, d, d), elements=groups * (2 * n * d + d**2))


def rank(shape: Shape, options: Options) -> int:
    """The rank of the attention matrix is at most that of the features."""
    return shape.head_dim
