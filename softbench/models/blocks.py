"""The parts of the pyramid: patch embedding, an attention with its projections, and SOFT's block.

Images are [B, C, rows, cols]; tokens are [B, N, C] with N = rows * cols in row-major order, the grid given beside them.
"""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.case import Shape
from softbench.contracts.attention import Attention
from softbench.errors import UsageError
from softbench.ops._common import run_uncast

Grid = tuple[int, int]


class PatchEmbed(nn.Module):
    """3x3 convolutions, each with batch norm and ReLU, that make tokens out of an image or of the stage before.

    One with stride 2; or, as the stem, three with strides 2, 1, 2. The border is padded by one, so that rows and cols
    are halved rounding up and no pixel is left out.
    """

    def __init__(self, in_chans: int, dim: int, stem: bool = False) -> None:
        super().__init__()
        plan = [(in_chans, dim // 2, 2), (dim // 2, dim // 2, 1), (dim // 2, dim, 2)] if stem else [(in_chans, dim, 2)]
        layers: list[nn.Module] = []
        for chans, out, stride in plan:
            layers += [nn.Conv2d(chans, out, 3, stride, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        self.proj = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> tuple[Tensor, Grid]:
        image = self.proj(image)
        return image.flatten(2).mT, (image.shape[2], image.shape[3])  # [B, N, C]


class ProjectedAttention(nn.Module):
    """An attention plugin between its projections, [B, N, C] -> [B, N, C]: y = W_o attention(W_q x, W_k x, W_v x).

    Where keys are the queries (SOFT) there is no W_k. The plugin itself runs outside autocast: it gets the dtype that
    the projections give, and keeps to its own rule for half precision (sums, kernels and inverses in float32).

    With `impl` "auto" the implementation is chosen for the device and dtype of the weights, and again when they move;
    the parameters stay the same objects.

    Raises:
        UsageError: the attention has no implementation of that name.
    """

    def __init__(self, dim: int, heads: int, attention: Attention, grid: Grid, impl: str = "auto") -> None:
        super().__init__()
        if impl not in ("auto", *attention.module.IMPLS):
            raise UsageError(f"{attention.name} has no implementation '{impl}'; it has"
                             f" {', '.join(attention.module.IMPLS)}.")
        self.heads, self.attention, self.asked = heads, attention, impl
        self.shape = Shape(1, heads, *grid, dim // heads)
        self.q = nn.Linear(dim, dim)
        self.k = None if attention.module.SHARES_QK else nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.impl = self._resolved()
        self.core = attention.build(self.shape, self.impl)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        q, v = self._heads(self.q(x)), self._heads(self.v(x))
        k = q if self.k is None else self._heads(self.k(x))
        y: Tensor = run_uncast(self.core, q, k, v, grid=grid)  # [B, H, N, D]
        return self.proj(y.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, N, D]

    def _resolved(self) -> str:
        if self.asked != "auto":
            return self.asked
        return self.attention.resolve("auto", self.q.weight.device.type, self.q.weight.dtype, self.shape)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]  # every .to() and .cuda() comes through here
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if (impl := self._resolved()) != self.impl:
            with torch.random.fork_rng(devices=[]):  # what is drawn is thrown away: nothing else may notice
                core = self.attention.build(self.shape, impl).to(self.q.weight)
            for new, old in zip(core.parameters(), self.core.parameters(), strict=True):
                new.requires_grad_(old.requires_grad)  # which assigning would take from the new one
            core.load_state_dict(self.core.state_dict(keep_vars=True), assign=True)
            self.core, self.impl = core.train(self.training), impl
        return self


class Mlp(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SoftBlock(nn.Module):
    """SOFT's block, normalised after each addition: x <- LN(x + attention(x)), x <- LN(x + MLP(x)).

    `drop_path` is stochastic depth: a sample's whole branch is left out. (The official code drops single numbers.)
    """

    def __init__(self, dim: int, heads: int, attention: Attention, grid: Grid, *, impl: str = "auto",
                 mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.attn = ProjectedAttention(dim, heads, attention, grid, impl)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.norm2 = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = self.norm1(x + self.drop_path(self.attn(x, grid)))
        return self.norm2(x + self.drop_path(self.mlp(x)))
