"""The CPU speeds that softbench claims, as ratios of interleaved pairs: our oracle, torch's SDPA, packages.

B = 1, H = 8, D = 64, float32, all cores of the process (the claims are for two), malloc thresholds fixed. The oracle is
the same attention from our plainest primitives: distances from `cdist`, the paper's Newton iteration of 20 steps, and
the whole N x m matrices kept. Packages get q, k and v in the layout they want, and no linear layer of theirs runs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from benchmarks.pairs import Call, Given, differentiated, times_faster
from helpers import quiet_import
from torch import Tensor, nn

from softbench.attention._landmarks import avg_pool, landmark_grid
from softbench.measures.memory.passes import _on_cpu
from softbench.ops import pseudo_inverse
from softbench.ops.gaussian_attention import gaussian_kernel
from softbench.subjects.workload import Workload

MODES = ("forward", "forward_backward")
LANDMARKS, HEADS, HEAD_DIM = 49, 8, 64
OVER_ORACLE = {"forward": 3.0, "forward_backward": 2.5}  # the aim is 4 and 3: docs/performance.md
LEAST_MEMORY = 3.0  # workspace of the oracle over ours
SDPA = {512: 1.0, 1024: 1.0, 4096: 1.0, 16384: 80.0}
PACKAGES = {"performer": {"features": 256}, "linformer": {"projected": 256},
            "nystromformer": {"landmarks": 64, "iterations": 6}}


def oracle(built: Workload) -> Call:
    """P^T M P v with P [B, H, m, N] kept, from distances and Newton's iteration as the paper writes them."""
    q, v = built.inputs

    def forward() -> Tensor:
        x = q * HEAD_DIM**-0.25
        landmarks = avg_pool(x, built.case.shape.grid, landmark_grid(built.case.shape.grid, LANDMARKS))
        a, p = (gaussian_kernel(landmarks, t, impl="reference") for t in (landmarks, x))
        inverse = pseudo_inverse.pseudo_inverse(a, method="newton", iterations=20, ridge=0.01, impl="reference")
        return p.mT @ (inverse @ (p @ v))

    return differentiated(built, forward, [q, v], built.target)


def package(name: str, built: Workload) -> Call:
    """The attention of that name in the package best known for it, on the same numbers."""
    train = built.case.mode != "forward"
    tokens = built.case.shape.tokens
    plain = [t.detach().clone().requires_grad_(train) for t in built.inputs]
    rows = [t.detach().transpose(1, 2).reshape(1, tokens, HEADS * HEAD_DIM) for t in built.inputs]  # [B, N, H D]
    target = torch.ones(1, tokens, HEADS * HEAD_DIM)
    if name == "performer":
        theirs = quiet_import("performer_pytorch").FastAttention(HEAD_DIM, nb_features=256)
        return differentiated(built, lambda: theirs(*plain), plain, built.target)
    if name == "linformer":
        theirs = quiet_import("linformer").LinformerSelfAttention(HEADS * HEAD_DIM, tokens, k=256, heads=HEADS,
                                                                 dim_head=HEAD_DIM)
        q, k, v = (t.clone().requires_grad_(train) for t in rows)
        theirs.to_q, theirs.to_k, theirs.to_v, theirs.to_out = Given(q), Given(k), Given(v), nn.Identity()
        return differentiated(built, lambda: theirs(q), [q, k, v, theirs.proj_k, theirs.proj_v], target)
    theirs = quiet_import("nystrom_attention").NystromAttention(
        HEADS * HEAD_DIM, dim_head=HEAD_DIM, heads=HEADS, num_landmarks=64, pinv_iterations=6, residual=False)
    x = torch.cat(rows, -1).requires_grad_(train)
    theirs.to_qkv, theirs.to_out = Given(x), nn.Identity()
    return differentiated(built, lambda: theirs(x), [x], target)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [3136, 12544])
def test_soft_against_its_oracle(benchmark, build, tell, tokens, mode):
    built = build("soft", tokens, mode)
    claim = times_faster(lambda: built.run(None), oracle(built), OVER_ORACLE[mode])
    what = f"soft, N = {tokens:,}, {mode}: times faster than its oracle"
    tell(what, claim.ratio, claim.span)
    benchmark.pedantic(built.run, args=(None,), rounds=3)
    claim.check(what)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [3136, 12544])
def test_workspace_of_soft_against_its_oracle(benchmark, build, tell, tokens, mode):
    """Peak bytes beyond the output, or the gradients."""
    built = build("soft", tokens, mode)
    reference = oracle(built)
    results = sum(t.numel() * t.element_size() for t in (built.leaves if mode != "forward" else built.inputs[-1:]))

    def workspace(run: Callable[[object], object]) -> int:
        passes = [_on_cpu(lambda: None, run).peak for _ in range(2)]
        return passes[-1] - results  # the first makes what is made once

    ours, theirs = workspace(built.run), workspace(lambda _: reference())
    tell(f"soft, N = {tokens:,}, {mode}: oracle's workspace over ours", theirs / ours,
         f" ({ours / 2**20:.1f} MiB against {theirs / 2**20:.1f} MiB)")
    benchmark.pedantic(built.run, args=(None,), rounds=3)
    assert theirs / ours >= LEAST_MEMORY


@pytest.mark.parametrize("tokens", SDPA)
def test_soft_is_ahead_of_sdpa(benchmark, build, tell, tokens):
    soft, softmax = build("soft", tokens), build("softmax", tokens)
    claim = times_faster(lambda: soft.run(None), lambda: softmax.run(None), SDPA[tokens])
    what = f"soft, N = {tokens:,}: times faster than SDPA"
    tell(what, claim.ratio, claim.span)
    benchmark.pedantic(soft.run, args=(None,), rounds=3)
    claim.check(what)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [1024, 4096])
@pytest.mark.parametrize("name", PACKAGES)
def test_never_slower_than_the_package(benchmark, build, tell, name, tokens, mode):
    options = "".join(f":{key}={value}" for key, value in PACKAGES[name].items())
    built = build(name + options, tokens, mode)
    claim = times_faster(lambda: built.run(None), package(name, built))
    what = f"{name}, N = {tokens:,}, {mode}: times faster than its package"
    tell(what, claim.ratio, claim.span)
    benchmark.pedantic(built.run, args=(None,), rounds=3)
    claim.check(what)
