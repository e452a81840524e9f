"""window, longformer and bigbird against softmax with a dense mask, and against timm, local-attention, transformers."""

from __future__ import annotations

import contract
import helpers
import pytest
import torch
from benchmarks.pairs import Given
from local_attention import LocalAttention
from torch import Tensor, nn

import softbench
from softbench.attention import _blocks, bigbird
from softbench.case import Shape
from softbench.errors import UsageError

IMPLS = ("sdpa", "math")
INPUTS = [("iid", 1.0), ("structured", 3.0)]


def masked_softmax(mask: Tensor):
    """Attention over the pairs at which the mask, [N, N] or [H, N, N], is True."""
    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.mT / q.shape[-1] ** 0.5
        return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v

    return call


def assert_is(name: str, shape: Shape, mask: Tensor, impl: str, kind: tuple[str, float], **options: object) -> None:
    ours = helpers.build(helpers.load(name, **options), shape, impl)
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=shape.grid), masked_softmax(mask),
                          helpers.inputs(shape, kind[0], scale=kind[1], value_dim=5))


def same_window(grid: tuple[int, int], size: int, shift: int) -> Tensor:
    """Pair by pair, as the first line of the docstring has it [N, N]."""
    def window(place: int, length: int) -> int:
        return place // length if length <= size else (place - shift) // size

    owner = [(window(r, grid[0]), window(c, grid[1])) for r in range(grid[0]) for c in range(grid[1])]
    return torch.tensor([[a == b for b in owner] for a in owner])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize(("grid", "size", "shift"), [
    ((14, 14), 7, 0), ((14, 14), 7, 3), ((9, 13), 4, 0), ((9, 13), 4, 3), ((5, 20), 7, 2), ((20, 1), 6, 1),
    ((3, 4), 7, 6)])
def test_window_is_softmax_within_windows(impl: str, kind: tuple[str, float], grid: tuple[int, int], size: int,
                                          shift: int) -> None:
    assert_is("window", Shape(2, 2, *grid, 6), same_window(grid, size, shift), impl, kind, size=size, shift=shift)


class Part(nn.Module):
    """Stands for a projection: the i-th of three equal parts of the channels."""

    def __init__(self, i: int) -> None:
        super().__init__()
        self.i = i

    def forward(self, x: Tensor) -> Tensor:
        return x.chunk(3, -1)[self.i]


class Thrice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x, x], -1)


def side_by_side(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, N, 3 H D]"""
    return torch.cat([x.transpose(1, 2).flatten(2) for x in (q, k, v)], -1)


@pytest.mark.parametrize("shift", [0, 3])
def test_window_matches_timm(shift: int) -> None:
    from timm.models.swin_transformer import SwinTransformerBlock

    shape = Shape(2, 2, 14, 21, 6)
    theirs = SwinTransformerBlock(36, shape.grid, num_heads=2, head_dim=6, window_size=7, shift_size=shift).double()
    theirs.attn.qkv, theirs.attn.proj = nn.Identity(), Thrice()
    theirs.attn.relative_position_bias_table.data.zero_()
    ours = helpers.build(helpers.load("window", shift=shift), shape)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = theirs._attn(side_by_side(q, k, v).unflatten(1, shape.grid))[..., :12]
        return y.reshape(2, -1, 2, 6).transpose(1, 2)

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=shape.grid), call, helpers.inputs(shape, "structured"))


def test_window_matches_local_attention_on_a_grid_as_wide_as_a_window() -> None:
    shape = Shape(2, 2, 20, 5, 6)
    ours = helpers.build(helpers.load("window", size=5), shape)
    theirs = LocalAttention(25, look_backward=0, look_forward=0, use_rotary_pos_emb=False)
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=shape.grid), theirs, helpers.inputs(shape, "structured"))


def band(tokens: int, window: int, count: int) -> Tensor:
    i, j = torch.arange(tokens)[:, None], torch.arange(tokens)
    return ((i - j).abs() <= window) | (i < count) | (j < count)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("tokens", "window", "count"), [
    (400, 5, 0), (400, 5, 3), (419, 64, 0), (419, 64, 1), (419, 130, 2), (64, 200, 1), (300, 0, 1), (70, 3, 80),
    (260, 40, 60)])
def test_longformer_is_softmax_within_the_band(impl: str, tokens: int, window: int, count: int) -> None:
    assert_is("longformer", Shape(2, 2, tokens, 1, 4), band(tokens, window, count), impl, INPUTS[1], window=window,
              globals=count)


def test_longformer_matches_local_attention() -> None:
    shape = Shape(2, 2, 16, 20, 6)
    ours = helpers.build(helpers.load("longformer", window=32, globals=0), shape)
    theirs = LocalAttention(32, exact_windowsize=True, use_rotary_pos_emb=False)
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=shape.grid), theirs, helpers.inputs(shape, "structured"))


@pytest.mark.parametrize("count", [0, 2])
def test_longformer_matches_transformers(count: int) -> None:
    config = helpers.quiet_import("transformers").LongformerConfig(
        hidden_size=12, num_attention_heads=2, attention_window=[32], attention_probs_dropout_prob=0.0)
    theirs = helpers.quiet_import("transformers.models.longformer.modeling_longformer").LongformerSelfAttention(
        config, layer_id=0).double()
    shape = Shape(2, 2, 8, 24, 6)
    ours = helpers.build(helpers.load("longformer", window=16, globals=count), shape)
    mask = torch.zeros(2, shape.tokens, dtype=torch.float64)
    mask[:, :count] = 1.0

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = [x.permute(2, 0, 1, 3).flatten(2) for x in (q, k, v)]  # [N, B, H D]
        for part, x in zip(("query", "key", "value"), rows, strict=True):
            setattr(theirs, part, Given(x.clone()))  # they divide it in place
            setattr(theirs, f"{part}_global", Given(x[:count] if part == "query" else x))
        y = theirs(rows[0].transpose(0, 1), attention_mask=mask, is_index_masked=mask < 0,
                   is_index_global_attn=mask > 0, is_global_attn=count > 0)[0]
        return y.unflatten(-1, (2, 6)).transpose(1, 2)

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=shape.grid), call, helpers.inputs(shape, "structured"),
                          bound=1e-6)  # float32 in their softmax


def block_pattern(tokens: int, options: bigbird.Options, drawn: Tensor) -> Tensor:
    """Which tokens see which [H, N, N], block by block."""
    n = -(-tokens // options.block)
    head, tail = options.ends
    heads = drawn.shape[0]
    seen = torch.zeros(heads, n, n, dtype=torch.bool)
    for h in range(heads):
        for i in range(n):
            seen[h, i, max(0, i - options.window // 2):i + options.window // 2 + 1] = True
            if head <= i < n - tail:
                seen[h, i, drawn[h, i - head]] = True
    for block in (*range(head), *range(n - tail, n)):
        seen[:, block, :] = seen[:, :, block] = True
    return seen.repeat_interleave(options.block, 1).repeat_interleave(options.block, 2)[:, :tokens, :tokens]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("tokens", "options"), [
    (96, {"block": 8}), (93, {"block": 8}), (90, {"block": 6, "window": 5, "globals": 3, "random": 1}),
    (50, {"block": 4, "globals": 0, "random": 2}), (41, {"block": 4, "window": 1, "globals": 1, "random": 0})], ids=str)
def test_bigbird_is_softmax_within_its_blocks(impl: str, tokens: int, options: dict[str, object]) -> None:
    chosen = bigbird.Options(**options)
    drawn = bigbird.random_blocks(2, -(-tokens // chosen.block), chosen)
    assert_is("bigbird", Shape(2, 2, tokens, 1, 4), block_pattern(tokens, chosen, drawn), impl, INPUTS[1], **options)


def test_bigbird_matches_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = helpers.quiet_import("transformers").BigBirdConfig(
        hidden_size=12, num_attention_heads=2, block_size=8, num_random_blocks=3, max_position_embeddings=256)
    module = helpers.quiet_import("transformers.models.big_bird.modeling_big_bird")
    theirs = module.BigBirdBlockSparseAttention(config).double()
    for i, part in enumerate(("query", "key", "value")):
        setattr(theirs, part, Part(i))
    shape = Shape(2, 2, 8, 16, 6)
    ours = helpers.build(helpers.load("bigbird", block=8), shape)
    monkeypatch.setattr(theirs, "_bigbird_block_rand_mask_with_head", lambda **_: list(ours.drawn.numpy()))
    monkeypatch.setattr(theirs, "_get_rand_attn_plan", lambda *_: (None, None))
    blocked, band_mask, row, column = module.BigBirdModel.create_masks_for_block_sparse_attn(
        torch.ones(2, shape.tokens, dtype=torch.float64), 8)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        y = theirs(side_by_side(q, k, v), band_mask, row, column, blocked, blocked)[0]
        return y.unflatten(-1, (2, 6)).transpose(1, 2)

    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=shape.grid), call, helpers.inputs(shape, "structured"))


@pytest.mark.parametrize("options", [{}, {"window": 5, "globals": 3, "random": 9}, {"globals": 0}], ids=str)
def test_random_blocks_are_new_ones_and_evenly_spread(options: dict[str, object]) -> None:
    chosen = bigbird.Options(block=1, **options)
    heads, n = 400, 24
    drawn = bigbird.random_blocks(heads, n, chosen)
    without = block_pattern(n, bigbird.Options(block=1, **{**options, "random": 0}), drawn[:1, :, :0])[0]
    head, tail = chosen.ends
    for row in range(head, n - tail):
        taken = torch.bincount(drawn[:, row - head].flatten(), minlength=n)
        assert (drawn[:, row - head].sort(-1).values.diff(dim=-1) > 0).all(), "a block twice"
        assert not taken[without[row]].any(), "a block that is seen anyway"
        free = taken[~without[row]] / (heads * chosen.random / (~without[row]).sum())
        assert free.min() > 0.6, f"row {row}: {free}"
        assert free.max() < 1.45, f"row {row}: {free}"


def test_seed_and_other_lengths_of_bigbird() -> None:
    shape, longer = Shape(1, 2, 10, 16, 4), Shape(1, 2, 12, 16, 4)
    first, second = (helpers.build(helpers.load("bigbird", block=8, seed=s), shape) for s in (0, 1))
    q, k, v = helpers.inputs(shape)
    assert not torch.equal(first(q, k, v, grid=shape.grid), second(q, k, v, grid=shape.grid))
    q, k, v = helpers.inputs(longer)
    built = helpers.build(helpers.load("bigbird", block=8), longer)
    assert torch.equal(first(q, k, v, grid=longer.grid), built(q, k, v, grid=longer.grid))


@pytest.mark.parametrize(("name", "options"), [("window", {"size": 99}), ("longformer", {"window": 200}),
                                               ("longformer", {"window": 0, "globals": 196}), ("bigbird", {})])
def test_wide_enough_is_exact_softmax(name: str, options: dict[str, object]) -> None:
    shape = Shape(1, 2, 14, 14, 8)
    assert_is(name, shape, torch.ones(196, 196, dtype=torch.bool), "sdpa", INPUTS[0], **options)


@pytest.mark.parametrize(("name", "options", "exact", "longer", "note"), [
    ("bigbird", {}, (16, 32), (18, 32), "exact softmax: 8 blocks, 8 seen"),
    ("longformer", {"window": 20}, (3, 7), (2, 11), "exact softmax: each of the 21 tokens sees all"),
    ("longformer", {"window": 0, "globals": 6}, (2, 3), (7, 1), "exact softmax: each of the 6 tokens sees all"),
    ("window", {}, (7, 5), (7, 8), "exact softmax: one window holds all 35 tokens")])
def test_note_says_when_it_is_exact(name: str, options: dict[str, object], exact: tuple[int, int],
                                    longer: tuple[int, int], note: str) -> None:
    attention = helpers.load(name, **options)
    assert attention.note(Shape(1, 1, *exact, 8)) == note
    assert attention.note(Shape(1, 1, *longer, 8)) == ""


@pytest.mark.parametrize(("name", "options"), [
    ("window", {"size": 4, "shift": 1}), ("longformer", {"window": 20, "globals": 0}),
    ("longformer", {"window": 70, "globals": 5}), ("bigbird", {"block": 4, "random": 1})], ids=str)
@pytest.mark.parametrize("check", contract.VARY_WITH_OPTIONS)
def test_options_keep_the_contract(name: str, options: dict[str, object], check: str) -> None:
    contract.CHECKS[check](helpers.load(name, **options), "sdpa")


@pytest.mark.parametrize(("name", "options", "message"), [
    ("window", {"shift": 7}, r"shift must be less than size \(7\), not 7"),
    ("bigbird", {"window": 4}, "window must be odd, with as many blocks on both sides, not 4")])
def test_impossible_options_are_told(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        helpers.load(name, **options)


@pytest.mark.parametrize(("name", "options"), [
    ("window", {"size": 4, "shift": 1}), ("longformer", {"window": 5, "globals": 2}),
    ("bigbird", {"block": 8, "random": 1})], ids=str)
def test_a_few_blocks_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch, name: str,
                                              options: dict[str, object]) -> None:
    shape = Shape(2, 2, 18, 31, 4)
    tensors = helpers.inputs(shape, "structured")
    ours = helpers.build(helpers.load(name, **options), shape, "sdpa")
    plain = helpers.build(helpers.load(name, **options), shape, "math")
    monkeypatch.setattr(_blocks, "_SCORES_AT_ONCE", 3 * 64 * 74)
    monkeypatch.setattr(_blocks, "_COPIED_AT_ONCE", 600)
    helpers.assert_agrees(lambda q, k, v: ours(q, k, v, grid=shape.grid),
                          lambda q, k, v: plain(q, k, v, grid=shape.grid), tensors)
    with torch.no_grad():
        assert helpers.relative(ours(*tensors, grid=shape.grid), plain(*tensors, grid=shape.grid)) < 1e-12


@pytest.mark.parametrize("kept", [0, 3])
@pytest.mark.parametrize("at_once", [1, 1 << 18])
@pytest.mark.parametrize("attn", ["window:size=4", "window:size=3:shift=1", "longformer:window=5:globals=0",
                                  "longformer:window=5:globals=2"])
def test_gradients_do_not_depend_on_what_is_kept_and_done_at_once(monkeypatch: pytest.MonkeyPatch, attn: str,
                                                                  at_once: int, kept: int) -> None:
    """A few weights are kept for the backward, others made anew, in small steps or in one."""
    monkeypatch.setattr(_blocks, "_KEPT", kept)
    monkeypatch.setattr(_blocks, "_SCORES_AT_ONCE", at_once)
    source = torch.Generator().manual_seed(3)
    q, k, v, dy = (torch.randn(1, 2, 64, 16, generator=source, dtype=torch.float64) for _ in range(4))
    name, *given = attn.split(":")
    options = {key: int(value) for key, value in (pair.split("=") for pair in given)}
    found = []
    for impl in ("sdpa", "math"):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        y = softbench.create(name, impl=impl, **options)(*leaves, grid=(8, 8))
        found.append((y.detach(), *torch.autograd.grad(y, leaves, dy)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
