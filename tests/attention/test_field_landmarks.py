"""agent against its package, and skyformer, luna and lara against their formulas written out: no package has them."""

from __future__ import annotations

from collections.abc import Callable

import contract
import helpers
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.case import Shape
from softbench.errors import UsageError

SHAPE = Shape(2, 3, 7, 14, 6)
KINDS = [("iid", 1.0), ("structured", 1.0), ("structured", 4.0)]


def build(name: str, shape: Shape = SHAPE, impl: str | None = None, **options: object) -> Callable[..., Tensor]:
    """An attention as a function of q, k, v at that shape."""
    module = helpers.build(helpers.load(name, **options), shape, impl)
    return lambda q, k, v: module(q, k, v, grid=shape.grid)


def pooled(x: Tensor, grid: tuple[int, int], to: tuple[int, int]) -> Tensor:
    """Adaptive averages over the token grid by torch's own pooling, [B, H, m, D]."""
    image = F.adaptive_avg_pool2d(x.mT.flatten(0, 1).unflatten(2, grid), to)
    return image.flatten(2).mT.unflatten(0, x.shape[:2])


@pytest.mark.parametrize("impl", ["eager", "math"])
@pytest.mark.parametrize(("grid", "to"), [((7, 14), (5, 9)), ((14, 14), (7, 7)), ((9, 10), (7, 7)), ((5, 8), (5, 8))])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_agent_matches_the_package(kind: str, scale: float, grid: tuple[int, int], to: tuple[int, int],
                                   impl: str) -> None:
    shape = Shape(2, 3, *grid, 6)
    theirs = helpers.quiet_import("agent_attention_pytorch.agent_transformer").AgentSelfAttention(
        54, num_agent_tokens=49, dim_head=6, heads=3, talking_heads=False, gate=False).double()
    theirs.norm, theirs.to_agent_out, theirs.to_out = nn.Identity(), nn.Identity(), nn.Identity()
    theirs.to_qkv.forward = lambda x: x.unflatten(2, (3, 3, 6)).permute(2, 0, 3, 1, 4)  # [3, B, H, m + N, D]

    def package(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        a = pooled(q, grid, to) if grid != to else q
        x, agents = (torch.cat([t.transpose(1, 2).flatten(2) for t in parts], -1) for parts in ((q, k, v), (a, a, a)))
        return theirs(x, agent_tokens=agents)

    helpers.assert_agrees(build("agent", shape, impl), package, helpers.inputs(shape, kind, scale=scale))


def test_agent_adds_a_depthwise_convolution_of_v() -> None:
    module = helpers.build(helpers.load("agent", conv=3), SHAPE)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        around = F.pad(v.unflatten(2, SHAPE.grid), (0, 0, 1, 1, 1, 1))  # [B, H, rows + 2, cols + 2, E]
        filters = module.conv.filters.weight.view(3, 3, 3, 1, 1, 1)
        added = sum(filters[:, i, j] * around[:, :, i:i + 7, j:j + 14] for i in range(3) for j in range(3))
        return build("agent")(q, k, v) + added.flatten(2, 3)

    helpers.assert_agrees(lambda q, k, v: module(q, k, v, grid=SHAPE.grid), formula, helpers.inputs(SHAPE))


def test_even_convolution_is_told() -> None:
    with pytest.raises(UsageError, match="conv must be odd, or 0 for none, not 4"):
        helpers.load("agent", conv=4)


def skyformer_formula(landmarks: int, ridge: float, picks: Callable[[int], tuple[Tensor, Tensor]],
                      steps: int = 0) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Nystrom's approximation of the 2 N x 2 N kernel, written out; its upper right block times v.

    With `steps`, the inverse is the iteration of the paper.
    """
    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, d = q.shape[2:]
        x = torch.cat([q, k], 2)
        kernel = torch.exp(-(x.unsqueeze(3) - x.unsqueeze(2)).square().sum(-1) / (2 * d**0.5))  # [B, H, 2 N, 2 N]
        of_q, of_k = picks(n)
        index = torch.cat([of_q, n + of_k])
        a = kernel[:, :, index][..., index] + ridge * torch.eye(len(index), dtype=q.dtype)
        assert len(index) == min(landmarks, 2 * n)
        if not steps:
            inverse = torch.linalg.inv(a)
        else:
            one, root = torch.eye(len(index), dtype=q.dtype), torch.diag_embed(a.sum(-1) ** -0.5)
            scaled = root @ a @ root
            inverse = scaled.mT / (scaled.sum(-1).amax(-1) * scaled.sum(-2).amax(-1))[..., None, None]
            for _ in range(steps):
                inverse = inverse @ (13 * one - scaled @ inverse @ (15 * one - scaled @ inverse @ (
                    7 * one - scaled @ inverse))) / 4
            inverse = root @ inverse @ root
        approximate = kernel[:, :, :, index] @ inverse @ kernel[:, :, index]
        return approximate[:, :, :n, n:] @ v

    return formula


def strided(tokens: int, landmarks: int) -> tuple[Tensor, Tensor]:
    halves = min(tokens, -(-landmarks // 2)), min(tokens, landmarks // 2)
    return tuple(torch.tensor([i * tokens // half for i in range(half)]) for half in halves)  # type: ignore[return-value]


@pytest.mark.parametrize("impl", ["eager", "reference"])
@pytest.mark.parametrize(("landmarks", "ridge", "inverse"), [
    (16, 0.1, "cholesky"), (25, 0.01, "eigh"), (16, 0.1, "nystromformer"), (128, 0.1, "cholesky")])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_skyformer_matches_the_formula(kind: str, scale: float, landmarks: int, ridge: float, inverse: str,
                                       impl: str) -> None:
    shape = Shape(2, 2, 5, 8, 6)
    ours = build("skyformer", shape, impl, landmarks=landmarks, ridge=ridge, inverse=inverse, sampling="strided")
    formula = skyformer_formula(landmarks, ridge, lambda n: strided(n, landmarks), 6 * (inverse == "nystromformer"))
    helpers.assert_agrees(ours, formula, helpers.inputs(shape, kind, scale=scale), bound=1e-8)


def test_skyformer_with_every_token_is_gaussian_attention() -> None:
    shape = Shape(2, 2, 4, 5, 6)
    tensors = helpers.inputs(shape, "structured")
    helpers.assert_agrees(build("skyformer", shape, landmarks=128, ridge=0.0), build("gaussian", shape), tensors,
                          bound=1e-6)
    apart = helpers.relative(build("skyformer", shape)(*tensors), build("gaussian", shape)(*tensors))
    assert apart > 1e-3, "a ridge makes no difference"


def test_skyformer_draws_its_landmarks_from_the_seed() -> None:
    q, k, v = helpers.inputs(SHAPE, "structured")
    ys = [build("skyformer", landmarks=16, seed=seed)(q, k, v) for seed in (0, 0, 7)]
    assert torch.equal(ys[0], ys[1])
    assert helpers.relative(ys[2], ys[0]) > 1e-3
    module = helpers.build(helpers.load("skyformer", landmarks=16), SHAPE)
    picked = module.of_q.picked, module.of_k.picked
    assert [len(p.unique()) for p in picked] == [8, 8]
    assert not torch.equal(*picked)


def test_skyformer_nears_gaussian_attention_with_more_landmarks() -> None:
    q, k, v = helpers.inputs(SHAPE, "structured")
    exact = build("gaussian")(q, k, v)
    errors = [helpers.relative(build("skyformer", landmarks=m, ridge=1e-6)(q, k, v), exact) for m in (8, 32, 128)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.2


@pytest.mark.parametrize("impl", ["sdpa", "math"])
@pytest.mark.parametrize("slots", [1, 16, 200])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_luna_matches_the_formula(kind: str, scale: float, slots: int, impl: str) -> None:
    module = helpers.build(helpers.load("luna", slots=slots), SHAPE, impl)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        packing = (torch.einsum("hpd,bhnd->bhpn", module.slots, k) / 6**0.5).softmax(-1)
        packed_k, packed_v = (torch.einsum("bhpn,bhnd->bhpd", packing, t) for t in (k, v))
        return (torch.einsum("bhnd,bhpd->bhnp", q, packed_k) / 6**0.5).softmax(-1) @ packed_v

    tensors = helpers.inputs(SHAPE, kind, scale=scale)
    if slots == 1:  # softmax over one slot: nothing depends on q
        tensors = tensors[1], tensors[1], tensors[2]
        assert torch.equal(build("luna", slots=1)(*tensors), build("luna", slots=1)(2 * tensors[0], *tensors[1:]))
        assert helpers.relative(module(*tensors, grid=SHAPE.grid), formula(*tensors)) < 1e-12
    else:
        helpers.assert_agrees(lambda q, k, v: module(q, k, v, grid=SHAPE.grid), formula, tensors)


def test_slots_of_luna_are_trained_and_start_normal() -> None:
    module = helpers.build(helpers.load("luna", slots=256), SHAPE)
    assert module.slots.shape == (3, 256, 6)
    assert float(module.slots.detach().square().mean()) == pytest.approx(1, rel=0.05)
    y = module(*helpers.inputs(SHAPE), grid=SHAPE.grid)
    assert all(g.count_nonzero() for g in helpers.gradients(y, list(module.parameters())))


@pytest.mark.parametrize(("grid", "to", "proposals"), [
    ((7, 14), (5, 9), 49), ((9, 10), (3, 4), 12), ((2, 3), (2, 3), 49)])
@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_lara_matches_the_formula(kind: str, scale: float, beta: float, grid: tuple[int, int], to: tuple[int, int],
                                  proposals: int) -> None:
    """As sums of densities and ratios, none of them in logarithms."""
    shape = Shape(2, 2, *grid, 5)

    def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = q / 5**0.25, k / 5**0.25
        qbar, kbar = pooled(q, grid, to), pooled(k, grid, to)
        w = mean = qbar + kbar

        def density(w: Tensor, mean: Tensor) -> Tensor:
            """N(w; mean, 1) / N(w; 0, 1), [B, H, draws, means]."""
            return torch.exp(w @ mean.mT - mean.square().sum(-1).unsqueeze(-2) / 2)

        of_k, of_q, own = density(w, k), density(w, q), density(w, mean)
        drawn = of_k @ v / of_k.sum(-1, keepdim=True)
        proposal = own.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        near = torch.exp(qbar @ q.mT)
        near = near / near.sum(-1, keepdim=True)
        alpha = proposal / own.sum(-1, keepdim=True) + beta * (near - near.mean(2, keepdim=True))
        weights = (alpha.clamp_min(1e-8) if beta else alpha) * of_q * of_k.sum(-1, keepdim=True) / proposal
        return (weights / weights.sum(2, keepdim=True)).mT @ drawn

    helpers.assert_agrees(build("lara", shape, proposals=proposals, beta=beta), formula,
                          helpers.inputs(shape, kind, scale=scale), bound=1e-8)


@pytest.mark.parametrize("name", ["agent", "luna", "lara"])
def test_rows_sum_to_one(name: str) -> None:
    q, k, v = helpers.inputs(SHAPE, "structured", scale=3.0)
    assert helpers.relative(build(name)(q, k, torch.ones_like(v)), torch.ones_like(v)) < 1e-12


def test_lara_on_equal_keys_is_softmax_attention() -> None:
    q, k, v = helpers.inputs(SHAPE, "structured")
    k = k[:, :, :1].expand_as(k)
    assert helpers.relative(build("lara")(q, k, v), build("softmax")(q, k, v)) < 1e-12
    assert helpers.relative(build("lara")(q, q, v), build("softmax")(q, q, v)) > 1e-2


@pytest.mark.parametrize(("name", "message"), [
    ("agent", "every token is an agent (6, 49 asked)"), ("lara", "every token is a proposal (6, 49 asked)"),
    ("skyformer", "12 of 128 landmarks: there are no more tokens")])
def test_fewer_than_asked_are_told(name: str, message: str) -> None:
    attention = helpers.load(name)
    assert attention.note(Shape(1, 1, 2, 3, 4)) == message
    assert attention.note(Shape(1, 1, 14, 14, 4)) == ""


@pytest.mark.parametrize(("name", "options"), [
    ("agent", {"agents": 12, "conv": 3}), ("luna", {"slots": 3}), ("lara", {"proposals": 5, "beta": 0.0}),
    ("skyformer", {"landmarks": 9, "inverse": "nystromformer"}), ("skyformer", {"landmarks": 12, "inverse": "eigh"})],
    ids=str)
@pytest.mark.parametrize("check", contract.VARY_WITH_OPTIONS)
def test_options_keep_the_contract(name: str, options: dict[str, object], check: str) -> None:
    attention = helpers.load(name, **options)
    contract.CHECKS[check](attention, attention.resolve("auto", "cpu", torch.float64))


@pytest.mark.parametrize("name", ["agent", "skyformer", "luna", "lara", "spatial_reduction", "linear_sra", "xca"])
def test_compiles_as_one_graph(name: str) -> None:
    shape = Shape(1, 2, 9, 8, 4)
    module = helpers.build(helpers.load(name), shape)
    leaves = [t.requires_grad_() for t in helpers.inputs(shape)]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    plain, traced = ([y, *helpers.gradients(y, leaves)] for y in (m(*leaves, grid=shape.grid)
                                                                  for m in (module, compiled)))
    assert all(helpers.relative(a, b) < 1e-12 for a, b in zip(traced, plain, strict=True))
