"""reformer against the package `reformer-pytorch` with our rotations, against loops over chunks, and exact softmax."""

from __future__ import annotations

import contract
import helpers
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from softbench.attention import reformer
from softbench.case import Shape

PACKAGE = "reformer_pytorch.reformer_pytorch"


def rotations(shape: Shape, options: reformer.Options) -> Tensor:
    return reformer.random_rotations(shape.head_dim, -(-shape.tokens // min(options.bucket, shape.tokens)),
                                     options).double()


@pytest.mark.parametrize(("grid", "bucket", "hashes"), [((8, 16), 16, 1), ((16, 24), 16, 4), ((8, 8), 32, 2)])
@pytest.mark.parametrize("kind", ["iid", "structured"])
def test_matches_the_package(monkeypatch: pytest.MonkeyPatch, kind: str, grid: tuple[int, int], bucket: int,
                             hashes: int) -> None:
    shape = Shape(2, 3, *grid, 8)
    ours = helpers.build(helpers.load("reformer", bucket=bucket, hashes=hashes), shape)
    theirs = helpers.quiet_import(PACKAGE).LSHAttention(bucket_size=bucket, n_hashes=hashes)
    drawn = rotations(shape, reformer.Options(bucket, hashes)).permute(1, 0, 2)[None]  # as they draw: [1, D, r, c / 2]
    q, _, v = helpers.inputs(shape, kind, scale=2.0)

    def call(q: Tensor, v: Tensor) -> Tensor:
        with monkeypatch.context() as patched:
            patched.setattr(torch, "randn", lambda size, **_: drawn.expand(size))
            return theirs(q.flatten(0, 1), v.flatten(0, 1))[0].view(v.shape)

    helpers.assert_agrees(lambda q, v: ours(q, q, v, grid=shape.grid), call, (q, v))


def by_loops(q: Tensor, v: Tensor, drawn: Tensor, bucket: int) -> Tensor:
    """One head [N, D], [N, E]: how often each query meets each key, then softmax weighed by that."""
    tokens = len(q)
    count = -(-tokens // bucket)
    meetings = torch.zeros(tokens, tokens, dtype=torch.long)
    rounds = []
    for rotation in drawn:
        bucket_of = [int(torch.cat([x @ rotation, -(x @ rotation)]).argmax()) for x in q.detach()]
        order = sorted(range(tokens), key=lambda i, of=bucket_of: (of[i], i))
        rounds += [order[c * bucket:(c + 1) * bucket] for c in range(count)]
    for chunk, before in zip(rounds, [rounds[-1], *rounds[:-1]], strict=True):
        for i in chunk:
            for j in (*chunk, *before):
                meetings[i, j] += 1
    meetings.fill_diagonal_(0)
    alone = meetings.sum(1) == 0
    meetings[alone, alone.nonzero().flatten()] = 1
    scores = q @ F.normalize(q, dim=-1).mT / q.shape[-1] ** 0.5 + meetings.to(q.dtype).log()
    return scores.softmax(-1) @ v


@pytest.mark.parametrize(("tokens", "bucket", "hashes"), [(40, 8, 1), (45, 8, 3), (7, 3, 2), (9, 1, 3), (5, 1, 2)])
def test_is_softmax_by_how_often_tokens_meet(tokens: int, bucket: int, hashes: int) -> None:
    shape = Shape(2, 2, tokens, 1, 4)
    ours = helpers.build(helpers.load("reformer", bucket=bucket, hashes=hashes), shape)
    drawn = rotations(shape, reformer.Options(bucket, hashes))
    q, _, v = helpers.inputs(shape, "structured", value_dim=3)

    def naive(q: Tensor, v: Tensor) -> Tensor:
        heads = [by_loops(a, b, drawn, bucket) for a, b in zip(q.flatten(0, 1), v.flatten(0, 1), strict=True)]
        return torch.stack(heads).view(v.shape)

    helpers.assert_agrees(lambda q, v: ours(q, q, v, grid=shape.grid), naive, (q, v))


@pytest.mark.parametrize("options", [{"hashes": 1, "bucket": 32}, {"hashes": 4, "bucket": 64}], ids=str)
def test_at_most_two_chunks_see_all(options: dict[str, int]) -> None:
    shape = Shape(2, 2, 8, 8, 6)
    q, _, v = helpers.inputs(shape)

    def exact(q: Tensor, v: Tensor) -> Tensor:
        scores = q @ F.normalize(q, dim=-1).mT / 6**0.5
        return scores.masked_fill(torch.eye(64, dtype=torch.bool), -torch.inf).softmax(-1) @ v

    ours = helpers.build(helpers.load("reformer", **options), shape)
    helpers.assert_agrees(lambda q, v: ours(q, q, v, grid=shape.grid), exact, (q, v))


def test_token_that_is_alone_sees_itself() -> None:
    shape = Shape(2, 2, 1, 1, 4)
    q, _, v = helpers.inputs(shape)
    for scale in (0.0, 1.0, 1e6):
        ours = helpers.build(helpers.load("reformer"), shape)
        assert torch.equal(ours(scale * q, q, v, grid=(1, 1)), v)


def test_tokens_that_fill_up_take_no_part_at_large_norms() -> None:
    """Two tokens far from a third, with the score 0 of what fills up the last chunk between them."""
    q = torch.tensor([[3.0, 1.0], [-3.0, -1.0], [3.0, 1.0]], dtype=torch.float64)[None, None] * 1e4
    v = torch.arange(3.0, dtype=torch.float64).view(1, 1, 3, 1)
    ours = helpers.build(helpers.load("reformer", bucket=2, hashes=1), Shape(1, 1, 3, 1, 2))
    y = ours(q, q, v, grid=(3, 1)).flatten()
    assert torch.allclose(y, torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)), y


def test_without_gradients_some_chunks_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(2, 2, 9, 31, 8)
    q, _, v = helpers.inputs(shape, "structured")
    ours = helpers.build(helpers.load("reformer", bucket=16), shape)
    whole = ours(q.clone().requires_grad_(), q, v, grid=shape.grid)
    monkeypatch.setattr(reformer, "_SCORES_AT_ONCE", 5 * 2 * 16**2 * 4)
    assert helpers.relative(ours(q, q, v, grid=shape.grid), whole) < 1e-14


def test_seed_and_other_lengths() -> None:
    shape, longer = Shape(1, 2, 16, 16, 4), Shape(1, 2, 16, 20, 4)
    first, second = (helpers.build(helpers.load("reformer", seed=s), shape) for s in (0, 1))
    q, _, v = helpers.inputs(shape)
    assert not torch.equal(first(q, q, v, grid=shape.grid), second(q, q, v, grid=shape.grid))
    q, _, v = helpers.inputs(longer)
    built = helpers.build(helpers.load("reformer"), longer)
    assert torch.equal(first(q, q, v, grid=longer.grid), built(q, q, v, grid=longer.grid))


@pytest.mark.parametrize("check", contract.VARY_WITH_OPTIONS)
def test_small_buckets_keep_the_contract(check: str) -> None:
    contract.CHECKS[check](helpers.load("reformer", bucket=8, hashes=2), "eager")
