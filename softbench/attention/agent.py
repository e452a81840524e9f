"""Agent attention: softmax attention through m agents, softmax(q a^T / sqrt(D)) softmax(a k^T / sqrt(D)) v.

The agents a [B, H, m, D] are means of the queries over the token grid, m = 49 as in the paper (7 x 7; on an oblong grid
the rows and columns nearest to its shape, and at most m). They gather the values as queries and hand them out as keys,
so that the product of two softmax matrices, of rank m, stands in the place of one: rows sum to 1, but it is a function
of its own and estimates no other. With N <= m every token is an agent. Work 4 N m (D + E) operations, memory m N at
most.

`conv` adds the paper's depthwise convolution of v over the token grid, whose size there is 3. Ours has one filter a
head, without bias, where the paper's has one a channel with bias: the output stays linear in v, and v may have any dim.
The paper's biases of position are left out, as they fix the grid. Scores and sums are float32 for half inputs; `math`
writes out the N x m scores. `eager` is torch's fused attention, which rounds the agents and what they gathered to the
inputs' dtype; but where a CPU is asked for gradients it is `math`, as m columns are quicker kept than made again.

Source: Han et al., Agent Attention: On the Integration of Softmax and Linear Attention, ECCV 2024 (arXiv 2312.08874).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention._feature_maps import check_odd
from softbench.attention._landmarks import Landmarks, landmark_count, landmark_note
from softbench.attention._nystrom import HeadwiseConv
from softbench.case import Shape
from softbench.contracts.attention import Cost, accumulation_dtype
from softbench.ops._common import needs_grad
from softbench.options import option

FAMILY = "landmark"
COMPLEXITY = "N"
APPROXIMATES = None
SHARES_QK = False
LINEAR_IN_V = True
CAUSAL = "never"
IMPLS = ("eager", "math")


@dataclass(frozen=True)
class Options:
    agents: int = option(49, "agents m, at any number of tokens", low=1, high=4096, size=True)
    conv: int = option(0, "size of the depthwise convolution of v that is added (odd, 0: none; the paper's is 3)",
                       low=0, high=99)

    def __post_init__(self) -> None:
        check_odd(self.conv)


class Agent(nn.Module):
    def __init__(self, shape: Shape, options: Options, impl: str) -> None:
        super().__init__()
        self.impl = impl
        self.agents = Landmarks("avg", options.agents, shape.grid, shape.head_dim)
        self.conv = HeadwiseConv(shape.heads, options.conv) if options.conv else None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        acc = accumulation_dtype(q.dtype)
        agents = self.agents(q, grid, acc)  # [B, H, m, D]
        if self.impl == "eager" and not (q.device.type == "cpu" and needs_grad(q, k, v)):
            agents = agents.to(q.dtype)
            y = F.scaled_dot_product_attention(q, agents, F.scaled_dot_product_attention(agents, k, v))
        else:
            agents = agents * q.shape[-1] ** -0.5
            gathered = (agents @ k.to(acc).mT).softmax(-1) @ v.to(acc)  # [B, H, m, E]
            y = (q.to(acc) @ agents.mT).softmax(-1) @ gathered  # [B, H, N, E]
        return (y if self.conv is None else y + self.conv(v.to(acc), grid)).to(v.dtype)


def build(shape: Shape, options: Options, impl: str) -> nn.Module:
    return Agent(shape, options, impl)


def cost(shape: Shape, options: Options) -> Cost:
    groups, n, d, m = shape.batch * shape.heads, shape.tokens, shape.head_dim, rank(shape, options)
    return Cost(flops=groups * (8.0 * n * m * d + 2.0 * options.conv**2 * n * d),
                elements=groups * (3.0 * m * d + n))  # agents, what they gathered, the log-sum-exp of each row


def rank(shape: Shape, options: Options) -> int:
    """The number of agents m that there will be, which bounds the rank of the attention matrix."""
    return landmark_count(shape.grid, "avg", options.agents)


def note(shape: Shape, options: Options) -> str:
    return landmark_note(shape.grid, "avg", options.agents).replace("landmark", "agent").replace("a agent", "an agent")
