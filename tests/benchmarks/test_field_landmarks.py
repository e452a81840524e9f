"""The CPU speeds claimed for attentions through landmarks, reductions and channels, against packages that have them.

As in test_speed.py: ratios of interleaved pairs at B = 1, H = 8, D = 64, float32; no linear layer of a
package runs. The work is the same on both sides: timm's reductions of PVT see keys and values one after the other, as
ours must. Only the package of `agent` does less: its agents are given, where ours are pooled in every call.

No package holds `skyformer`, `luna` or `lara`, so nothing is claimed for these.
"""

from __future__ import annotations

import pytest
import torch
from benchmarks.pairs import Call, Given, differentiated, times_faster
from helpers import quiet_import
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.attention._landmarks import avg_pool
from softbench.subjects.workload import Workload

MODES = ("forward", "forward_backward")
HEADS, HEAD_DIM = 8, 64
DIM = HEADS * HEAD_DIM


def package(name: str, built: Workload) -> Call:
    """The core of the attention of that name in its package, on the same numbers."""
    train = built.case.mode != "forward"
    q, k, v = (t.detach() for t in built.inputs)
    rows = [t.transpose(1, 2).reshape(1, -1, DIM).requires_grad_(train) for t in (q, k, v)]  # [B, N, H D]
    target = torch.ones_like(rows[0])
    if name == "agent":
        agents = avg_pool(q, built.case.shape.grid, (7, 7))
        x = torch.stack([torch.cat([agents, t], 2) for t in (q, k, v)]).requires_grad_(train)  # [3, B, H, 49 + N, D]
        theirs = quiet_import("agent_attention_pytorch.agent_transformer").AgentSelfAttention(
            DIM, num_agent_tokens=49, dim_head=HEAD_DIM, heads=HEADS, talking_heads=False, gate=False)
        theirs.norm, theirs.to_qkv, theirs.to_out, theirs.to_agent_out = nn.Identity(), Given(x), *2 * [nn.Identity()]
        empty, none = torch.empty(1, x.shape[3] - 49, 1), torch.empty(1, 49, 1)
        return differentiated(built, lambda: theirs(empty, agent_tokens=none), [x], built.target)
    if name == "xca":
        x = torch.cat(rows, -1).detach().requires_grad_(train)
        theirs = quiet_import("timm.models.xcit").XCA(DIM, HEADS)
        theirs.qkv, theirs.proj = Given(x), nn.Identity()
        return differentiated(built, lambda: theirs(rows[0]), [x, theirs.temperature], target)
    theirs = quiet_import("timm.models.pvt_v2").Attention(DIM, HEADS, 8, linear_attn=name == "linear_sra")

    def forward() -> Tensor:
        """timm's lines between its linear layers."""
        queries, *pair = (t.unflatten(2, (HEADS, -1)).transpose(1, 2) for t in (rows[0], *map(reduced, rows[1:])))
        return F.scaled_dot_product_attention(queries, *pair).transpose(1, 2).reshape(target.shape)

    def reduced(x: Tensor) -> Tensor:
        image = x.mT.reshape(1, DIM, *built.case.shape.grid)
        image = image if theirs.pool is None else theirs.pool(image)
        x = theirs.norm(theirs.sr(image).reshape(1, DIM, -1).mT)
        return x if theirs.act is None else theirs.act(x)

    return differentiated(built, forward, [*rows, *theirs.sr.parameters(), *theirs.norm.parameters()], target)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [1024, 4096])
@pytest.mark.parametrize("name", ["agent", "xca", "spatial_reduction", "linear_sra"])
def test_never_slower_than_the_package(benchmark, build, tell, name, tokens, mode):
    built = build(name, tokens, mode)
    claim = times_faster(lambda: built.run(None), package(name, built))
    what = f"{name}, N = {tokens:,}, {mode}: times faster than its package"
    tell(what, claim.ratio, claim.span)
    benchmark.pedantic(built.run, args=(None,), rounds=3)
    claim.check(what)
