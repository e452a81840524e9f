"""SimA: softmax-free attention of l1-normalised channels, (q / |q|_1) ((k / |k|_1)^T v).

The l1 norms run along the tokens, one for each channel of q and of k [B, H, N, D]:
    y_i = sum_j (sum_c q_ic k_jc / (|q_.c|_1 |k_.c|_1)) v_j.
There is no exponential and no denominator: weights may be negative, rows do not sum to 1, and outputs shrink as 1 / N
against those of other attentions. It defines a kernel of its own, and approximates no other attention. Work 4 N D E
operations a head, memory N D. (The paper multiplies in the other order where N < D; here the order is always this.)

Both norms divide rows of the D x E product, and not the tokens. A norm below 1e-12 counts as 1e-12 (the official code's
bound), so that a channel of zeros gives zeros. Everything is float32 for half inputs. Outputs are of their dtype: in
float16 they lose digits below 6e-5, which is where those of values of size 1 are from a few thousand tokens on.

Source: Koohpayegani and Pirsiavash, SimA: Simple Softmax-free Attention for Vision Transformers, WACV 2024
(arXiv 2206.08898).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype

FAMILY = "feature map"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("eager",)

_LEAST_NORM = 1e-12


@dataclass(frozen=True)
class Options:
    """None: SimA has nothing to choose."""


class Sima(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc, kind = accumulation_dtype(q.dtype), v.dtype
        q, k, v = q.to(acc), k.to(acc), v.to(acc)
        values = k.mT @ v / _norm(k) / _norm(q)  # [B, H, D, E]
        return (q @ values).to(kind)


def _norm(x: Tensor) -> Tensor:
    """Return the l1 norm along the tokens, [B, H, D, 1]."""
    return x.abs().sum(-2).clamp_min(_LEAST_NORM).unsqueeze(-1)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Sima()


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d = shape.batch * shape.heads, shape.tokens, shape.head_dim
    return Cost(flops=4.0 * groups * n * d**2, elements=groups * (n * d + d**2))


def rank(shape: Shape, options: Options) -> int:
    """The rank of the attention matrix is at most that of the queries."""
    return shape.head_dim
