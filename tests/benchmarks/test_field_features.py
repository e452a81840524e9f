"""Feature maps against packages on the CPU, as ratios of interleaved pairs: ours must not be slower.

B = 1, H = 8, D = 64, float32, all cores of the process, malloc thresholds fixed, with equal hyperparameters. Packages
get q, k and v in the layout they want, and no linear layer of theirs runs.

- linear: elu + 1 into the quotient of performer-pytorch, the package that has this sum of products in plain torch.
- efficient: linear-attention-transformer (which also multiplies queries by 1 / sqrt(D)), performer-pytorch without a
  projection (which also divides by sums that are 1).
- relu_linear: timm's LiteMLA without its convolutions.

No package that installs has sima, hydra, cosformer, rfa, flatten, polaformer or mlla.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from benchmarks.pairs import Call, Given, differentiated, times_faster
from helpers import quiet_import
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.subjects.workload import Workload

MODES = ("forward", "forward_backward")
HEADS, HEAD_DIM = 8, 64


def plain(built: Workload, forward: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Call:
    """A function of q, k, v in our layout."""
    tensors = [t.detach().clone().requires_grad_(built.case.mode != "forward") for t in built.inputs]
    return differentiated(built, lambda: forward(*tensors), tensors, built.target)


def linear(built: Workload) -> Call:
    quotient = quiet_import("performer_pytorch.performer_pytorch").linear_attention
    return plain(built, lambda q, k, v: quotient(F.elu(q) + 1, F.elu(k) + 1, v))


def efficient(built: Workload) -> Call:
    return plain(built, quiet_import("linear_attention_transformer.linear_attention_transformer").linear_attn)


def unprojected(built: Workload) -> Call:
    return plain(built, quiet_import("performer_pytorch").FastAttention(HEAD_DIM, no_projection=True))


def lite_mla(built: Workload) -> Call:
    from timm.models.efficientvit_mit import LiteMLA

    grid = built.case.shape.grid
    theirs = LiteMLA(1, 1, heads=HEADS, dim=HEAD_DIM, scales=())
    heads = torch.cat([t.detach() for t in built.inputs], -1)  # [B, H, N, 3 D], as channels of an image
    image = heads.mT.flatten(1, 2).unflatten(-1, grid).contiguous()
    image.requires_grad_(built.case.mode != "forward")
    theirs.qkv, theirs.proj = Given(image), nn.Identity()
    target = built.target if built.case.mode == "forward" else torch.ones(1, HEADS * HEAD_DIM, *grid)
    return differentiated(built, lambda: theirs(image), [image], target)


PACKAGES = {"performer-pytorch": ("linear", linear), "linear-attention-transformer": ("efficient", efficient),
            "performer-pytorch, no projection": ("efficient", unprojected), "timm": ("relu_linear", lite_mla)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [1024, 4096])
@pytest.mark.parametrize("package", PACKAGES)
def test_never_slower_than_the_package(benchmark, build, tell, package, tokens, mode):
    name, theirs = PACKAGES[package]
    built = build(name, tokens, mode)
    claim = times_faster(lambda: built.run(None), theirs(built))
    what = f"{name}, N = {tokens:,}, {mode}: times faster than {package}"
    tell(what, claim.ratio, claim.span)
    benchmark.pedantic(built.run, args=(None,), rounds=3)
    claim.check(what)
