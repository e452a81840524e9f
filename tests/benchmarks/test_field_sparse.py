"""window, longformer, bigbird and reformer against the packages that have them, as in test_speed.

Packages get q, k and v in the layout they want, and no linear layer of theirs runs. `window` is compared on windows
that divide the grid, where timm computes the same function; local-attention cuts a row of tokens, not a grid.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from benchmarks.pairs import Call, Given, differentiated, times_faster
from helpers import quiet_import
from torch import Tensor, nn

from softbench.subjects.workload import Workload

MODES = ("forward", "forward_backward")
HEADS, HEAD_DIM, WIDTH = 8, 64, 512


def option(built: Workload, name: str) -> int:
    return int(built.case.spec.options[name])


def over_rows(built: Workload, forward: Callable[..., Tensor], together: bool = False) -> Call:
    """A call of `forward` on q, k, v as rows [1, N, H D], or with `together` side by side in one [1, N, 3 H D]."""
    rows = [t.detach().transpose(1, 2).reshape(1, -1, WIDTH) for t in built.inputs]
    leaves = [torch.cat(rows, -1)] if together else rows
    leaves = [t.clone().requires_grad_(built.case.mode != "forward") for t in leaves]
    return differentiated(built, lambda: forward(*leaves), leaves, torch.ones_like(rows[2]))


def over_heads(built: Workload, forward: Callable[..., Tensor]) -> Call:
    """A call of `forward` on the inputs as they are."""
    leaves = [t.detach().clone().requires_grad_(built.case.mode != "forward") for t in built.inputs]
    return differentiated(built, lambda: forward(*leaves), leaves, built.target)


def timm_window(built: Workload) -> Call:
    swin = quiet_import("timm.models.swin_transformer")
    grid, size = built.case.shape.grid, option(built, "size")
    attention = swin.WindowAttention(3 * WIDTH, HEADS, head_dim=HEAD_DIM, window_size=size)
    attention.qkv, attention.proj = nn.Identity(), nn.Identity()
    attention.requires_grad_(False)

    def forward(x: Tensor) -> Tensor:
        windows = swin.window_partition(x.view(1, *grid, -1), (size, size)).flatten(1, 2)
        y = attention(windows).unflatten(1, (size, size))
        return swin.window_reverse(y, (size, size), *grid).view(1, -1, WIDTH)

    return over_rows(built, forward, together=True)


def local_attention_band(built: Workload) -> Call:
    return over_heads(built, quiet_import("local_attention").LocalAttention(
        option(built, "window"), exact_windowsize=True, use_rotary_pos_emb=False))


def transformers_longformer(built: Workload) -> Call:
    window, count = option(built, "window"), option(built, "globals")
    config = quiet_import("transformers").LongformerConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, attention_window=[2 * window],
        attention_probs_dropout_prob=0.0)
    theirs = quiet_import("transformers.models.longformer.modeling_longformer").LongformerSelfAttention(config, 0)
    mask = torch.zeros(1, built.case.shape.tokens)
    mask[:, :count] = 1.0

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for part, x in (("query", q), ("key", k), ("value", v)):
            x = x.transpose(0, 1)
            setattr(theirs, part, Given(x * 1 if part == "query" else x))  # they divide it in place
            setattr(theirs, f"{part}_global", Given(x[:count] * 1 if part == "query" else x))
        return theirs(q, attention_mask=mask, is_index_masked=mask < 0, is_index_global_attn=mask > 0,
                      is_global_attn=count > 0)[0]

    return over_rows(built, forward)


def transformers_bigbird(built: Workload) -> Call:
    tokens = built.case.shape.tokens
    config = quiet_import("transformers").BigBirdConfig(hidden_size=WIDTH, num_attention_heads=HEADS,
                                                        max_position_embeddings=4096)
    module = quiet_import("transformers.models.big_bird.modeling_big_bird")
    theirs = module.BigBirdBlockSparseAttention(config)
    blocked, band_mask, row, column = module.BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(1, tokens), 64)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        theirs.query, theirs.key, theirs.value = Given(q), Given(k), Given(v)
        return theirs(q, band_mask, row, column, blocked, blocked)[0]

    return over_rows(built, forward)


def reformer_pytorch(built: Workload) -> Call:
    theirs = quiet_import("reformer_pytorch.reformer_pytorch").LSHAttention(bucket_size=64, n_hashes=4)
    return over_heads(built, lambda q, v: theirs(q.flatten(0, 1), v.flatten(0, 1))[0].view(v.shape))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tokens", [1024, 4096])
@pytest.mark.parametrize(("attn", "package"), [
    ("window:size=8", timm_window),
    ("longformer:window=64:globals=0", local_attention_band), ("longformer:window=256:globals=0", local_attention_band),
    ("longformer:window=64:globals=1", transformers_longformer),
    ("longformer:window=256:globals=1", transformers_longformer),
    ("bigbird", transformers_bigbird), ("reformer", reformer_pytorch)])
def test_never_slower_than_the_package(benchmark, build, tell, attn, package, tokens, mode):
    built = build(attn, tokens, mode)
    claim = times_faster(lambda: built.run(None), package(built))
    what = f"{attn}, N = {tokens:,}, {mode}: times faster than {package.__name__}"
    tell(what, claim.ratio, claim.span)
    benchmark.pedantic(built.run, args=(None,), rounds=3)
    claim.check(what)
