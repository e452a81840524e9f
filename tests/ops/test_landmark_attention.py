"""landmark_attention against its formula in float64: values, gradients, slices of tokens, memory, and far tokens."""

from __future__ import annotations

import helpers
import pytest
import torch
from torch import Tensor

from softbench.case import Shape
from softbench.measures.memory import passes
from softbench.ops.gaussian_attention import _by_landmarks, eager, landmark_attention, reference

SCALE = 0.7
KINDS = [("iid", 1.0), ("structured", 1.0), ("structured", 5.0)]
ROOMS = {"whole heads": (1 << 13, 1 << 22), "slices, scores kept": (10, 1 << 22), "slices, scores twice": (10, 40)}


def sides(kind: str = "iid", scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x [2, 3, 37, 5], landmarks [2, 3, 9, 5] (scaled), middle [2, 3, 9, 9], v [2, 3, 37, 4]."""
    x, _, v = helpers.inputs(Shape(2, 3, 1, 37, 5), kind, scale=scale, value_dim=4, dtype=dtype)
    landmarks, _, _ = helpers.inputs(Shape(2, 3, 1, 9, 5), kind, scale=scale, dtype=dtype)
    middle, _, _ = helpers.inputs(Shape(2, 3, 1, 9, 9), seed=5, dtype=dtype)
    return x, landmarks * SCALE, middle, v


def attend(*tensors: Tensor, impl: str = "eager") -> Tensor:
    return landmark_attention(*tensors, scale=SCALE, impl=impl)


@pytest.fixture(params=ROOMS)
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small limits, so that few tokens already come in slices."""
    rows, kept = ROOMS[request.param]
    monkeypatch.setattr(_by_landmarks, "ROWS", rows)
    monkeypatch.setattr(_by_landmarks, "KEPT", kept)
    return str(request.param)


@pytest.mark.parametrize(("kind", "scale"), KINDS)
def test_values_and_gradients_match_the_formula(kind: str, scale: float, room: str) -> None:
    def formula(x: Tensor, landmarks: Tensor, middle: Tensor, v: Tensor) -> Tensor:
        p = (-(landmarks.unsqueeze(3) - SCALE * x.unsqueeze(2)).square().sum(-1) / 2).exp()  # [B, H, m, N]
        return p.mT @ middle @ p @ v

    tensors = sides(kind, scale)
    helpers.assert_agrees(attend, formula, tensors)
    helpers.assert_agrees(lambda *t: attend(*t, impl="reference"), formula, tensors)


def test_without_a_way_of_its_own_it_is_gaussian_attention_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(eager, "by_landmarks")
    helpers.assert_agrees(attend, lambda *t: reference.by_landmarks(*t, SCALE), sides("structured"))


def test_gradients_match_finite_differences(room: str) -> None:
    tensors = tuple(t[:1, :1].requires_grad_() for t in sides("structured"))
    torch.autograd.gradcheck(attend, tensors)


@pytest.mark.parametrize("wanted", range(4))
def test_one_gradient_alone_is_the_same(wanted: int, room: str) -> None:
    tensors = [t.requires_grad_() for t in sides("structured")]
    together = helpers.gradients(attend(*tensors), tensors)
    alone = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(tensors)]
    (single,) = helpers.gradients(attend(*alone), alone[wanted:wanted + 1])
    assert torch.equal(single, together[wanted])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_only_rounded_at_the_end(dtype: torch.dtype, room: str) -> None:
    x, landmarks, middle, v = sides("structured", dtype=dtype)
    leaves = [t.requires_grad_() for t in (x, landmarks.float(), middle.float(), v)]
    exact = [t.detach().double().requires_grad_() for t in leaves]
    y, truth = attend(*leaves), attend(*exact, impl="reference")
    assert y.dtype == dtype
    for ours, theirs in zip([y, *helpers.gradients(y, leaves)], [truth, *helpers.gradients(truth, exact)], strict=True):
        assert helpers.relative(ours, theirs) < 4 * torch.finfo(dtype).eps  # the cotangent is rounded too


def test_shared_offset_costs_no_digits() -> None:
    x, landmarks, middle, v = (t.float() for t in sides("structured"))
    shifted = x + 4096, landmarks + SCALE * 4096, middle, v
    truth = attend(*(t.double() for t in shifted), impl="reference")
    assert helpers.relative(attend(*shifted), truth) < 1e-3  # that far out a token itself has 11 bits behind the point


def test_far_tokens_have_no_subnormal_numbers() -> None:
    """Beside near tokens; their exponents of about -200 and less would give subnormal scores and zeros."""
    x, landmarks, middle, v = (t.float() for t in sides())
    x[:, :, 20:] += 13.0
    x[:, :, 30:] *= 1e6
    kept = (torch.tensor(1e-38) * 0.1).item() != 0
    torch.set_flush_denormal(False)
    try:
        far = attend(x, landmarks, middle, v)[:, :, 20:].abs()
    finally:
        torch.set_flush_denormal(not kept)
    assert float(far.min()) > torch.finfo(torch.float32).tiny
    assert float(far.max()) < 1e-25


def test_no_score_exceeds_one() -> None:
    """Tokens so long that rounding moves the distance of a token to itself by about one, to either side."""
    x = 3000 * torch.randn(1, 1, 64, 16, generator=torch.Generator().manual_seed(0))
    one = torch.eye(64).expand(1, 1, 64, 64)
    squares = landmark_attention(x, x, one, one)  # P^T P: the diagonal holds squares of these tokens' own scores
    assert float(squares.max()) <= 1


def test_memory_does_not_grow_with_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the output, or the gradients by x and v: only what one slice needs, in the forward and in the backward."""
    monkeypatch.setattr(_by_landmarks, "ROWS", 1 << 10)
    monkeypatch.setattr(_by_landmarks, "KEPT", 1 << 12)

    def workspace(tokens: int, train: bool) -> int:
        g = torch.Generator().manual_seed(0)
        x, v = (torch.randn(1, 2, tokens, 8, generator=g).requires_grad_(train) for _ in range(2))
        landmarks, middle = torch.randn(1, 2, 16, 8, generator=g) / 2, torch.randn(1, 2, 16, 16, generator=g)

        def run(_: object) -> object:
            y = landmark_attention(x, landmarks, middle, v)
            return torch.autograd.grad(y, (x, v), y.detach()) if train else y

        passes._on_cpu(lambda: None, run)
        return passes._on_cpu(lambda: None, run).peak - (3 if train else 1) * x.numel() * 4

    for train in (False, True):
        small, large = workspace(1 << 13, train), workspace(1 << 15, train)
        assert large <= small + 4096
        assert large < 1 << 20


def test_no_tokens_give_no_sums_and_no_gradients() -> None:
    _, landmarks, middle, _ = sides()
    x, v = torch.empty(2, 3, 0, 5, dtype=torch.float64), torch.empty(2, 3, 0, 4, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (x, landmarks, middle, v)]
    y = attend(*leaves)
    assert y.shape == (2, 3, 0, 4)
    assert not any(g.any() for g in torch.autograd.grad(y.sum(), leaves))


def test_second_backward_is_refused() -> None:
    x, *others = (t.requires_grad_() for t in sides())
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(attend(x, *others).sum(), x, create_graph=True)
