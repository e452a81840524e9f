"""The measure `flops`: counts known by hand, operators that must not be missed, and the agreement of all three."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import helpers
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench import inputs, parsing
from softbench.case import AttentionSpec, Case, Shape
from softbench.contracts.attention import Attention, Cost
from softbench.contracts.measure import Reading
from softbench.measures import flops
from softbench.measures.flops import Settings, counters
from softbench.measures.flops.counters import Uncounted
from softbench.ops.gaussian_attention import gaussian_kernel, landmark_attention
from softbench.ops.pseudo_inverse import pseudo_inverse
from softbench.subjects import OneAttention, workload

COUNTERS = [counters.by_torch, counters.by_fvcore]


class Apply(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def count(counter: Callable[..., counters.Count], function: Callable[..., Any], *sizes: tuple[int, ...],
          device: str = "meta") -> counters.Count:
    return counter(Apply(function), tuple(torch.ones(size, device=device) for size in sizes))


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        assert len(ctx.needs_input_grad) == 2
        return a @ b


class NewStyleProduct(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return Product.apply(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs)


BY_HAND: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], float]] = {
    "matmul": (lambda a, b: a @ b, [(3, 5), (5, 7)], 2 * 3 * 5 * 7),
    "batched": (lambda a, b: a @ b, [(2, 3, 4, 5), (2, 3, 5, 7)], 2 * 6 * 4 * 5 * 7),
    "bmm": (torch.bmm, [(6, 4, 5), (6, 5, 7)], 2 * 6 * 4 * 5 * 7),
    "broadcast on the left": (lambda a, b: a @ b, [(4, 5), (6, 5, 7)], 2 * 6 * 4 * 5 * 7),
    "broadcast on the right": (lambda a, b: a @ b, [(6, 4, 5), (5, 7)], 2 * 6 * 4 * 5 * 7),
    "matrix and vector": (lambda a, b: a @ b, [(4, 5), (5,)], 2 * 4 * 5),
    "dot": (torch.dot, [(5,), (5,)], 2 * 5),
    "addmm": (torch.addmm, [(4, 7), (4, 5), (5, 7)], 2 * 4 * 5 * 7),
    "baddbmm": (torch.baddbmm, [(6, 4, 7), (6, 4, 5), (6, 5, 7)], 2 * 6 * 4 * 5 * 7),
    "baddbmm in place": (lambda c, a, b: (c * 1).baddbmm_(a, b), [(6, 4, 7), (6, 4, 5), (6, 5, 7)], 2 * 6 * 4 * 5 * 7),
    "linear": (F.linear, [(3, 4, 5), (7, 5)], 2 * 3 * 4 * 5 * 7),
    "einsum": (lambda a, b: torch.einsum("bhnd,hmd->bhnm", a, b), [(2, 3, 4, 5), (3, 7, 5)], 2 * 6 * 4 * 5 * 7),
    "conv1d": (lambda x, w: F.conv1d(x, w, padding=2), [(2, 3, 11), (6, 3, 5)], 2 * 2 * 11 * 6 * 3 * 5),
    "strided conv2d": (lambda x, w: F.conv2d(x, w, stride=2), [(2, 3, 8, 8), (6, 3, 2, 2)], 2 * 2 * 16 * 6 * 3 * 4),
    "depthwise conv2d": (lambda x, w: F.conv2d(x, w, None, 1, 1, 1, 6), [(2, 6, 8, 8), (6, 1, 3, 3)],
                         2 * 2 * 64 * 6 * 9),
    "sdpa": (F.scaled_dot_product_attention, [(2, 3, 8, 4), (2, 3, 9, 4), (2, 3, 9, 5)], 2 * 6 * 8 * 9 * (4 + 5)),
    "distances": (torch.cdist, [(2, 3, 8, 4), (2, 3, 9, 4)], 2 * 6 * 8 * 9 * 4),
    "cholesky and inverse": (lambda a: torch.cholesky_inverse(torch.linalg.cholesky_ex(a)[0]), [(6, 5, 5)], 6 * 5**3),
    "cholesky_solve": (torch.cholesky_solve, [(6, 5, 7), (6, 5, 5)], 2 * 6 * 7 * 5**2),
    "triangular solve": (lambda a, b: torch.linalg.solve_triangular(a, b, upper=True), [(6, 5, 5), (6, 5, 7)],
                         6 * 7 * 5**2),
    "eigh": (lambda a: torch.linalg.eigh(a)[1], [(6, 5, 5)], 9 * 6 * 5**3),
    "inverse": (torch.linalg.inv, [(6, 5, 5)], 2 * 6 * 5**3),
    "solve": (torch.linalg.solve, [(6, 5, 5), (6, 5, 7)], 6 * (2 * 5**3 / 3 + 2 * 7 * 5**2)),
    "autograd function": (lambda a, b: Product.apply(a, b), [(3, 5), (5, 7)], 2 * 3 * 5 * 7),
    "nested autograd functions": (lambda a, b: NewStyleProduct.apply(a, b), [(3, 5), (5, 7)], 2 * 3 * 5 * 7),
    "none": (lambda a: F.layer_norm(a.softmax(-1).exp() / a.sum(-1, keepdim=True), (5,)).tril(), [(4, 5)], 0),
    "pooling": (lambda a: F.interpolate(F.adaptive_avg_pool2d(a, 3), (9, 9), mode="bilinear"), [(1, 2, 7, 8)], 0),
    "masking": (lambda a: a.masked_fill_(a > 0, 0.0).clamp_(min=0).index_select(0, a.argmax(0)), [(4, 5)], 0),
}


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("name", BY_HAND)
def test_counts_known_by_hand_are_met(name: str, counter: Callable[..., counters.Count]) -> None:
    function, sizes, expected = BY_HAND[name]
    counted = count(counter, function, *sizes)
    assert counted.flops == pytest.approx(expected, rel=1e-12)
    assert sum(counted.operators.values()) == counted.flops


def test_convolutions_are_counted_alike_on_real_tensors() -> None:
    sizes = [(2, 6, 8, 8), (6, 1, 3, 3)]
    for padding in ("same", 1):
        function = lambda x, w, p=padding: F.conv2d(x, w, None, 1, p, 1, 6)  # noqa: E731
        assert {count(c, function, *sizes, device="cpu").flops for c in COUNTERS} == {2 * 2 * 64 * 6 * 9}


def test_what_was_supplied_is_named() -> None:
    sdpa, sizes, _ = BY_HAND["sdpa"]
    assert count(counters.by_fvcore, sdpa, *sizes).supplied == ["scaled_dot_product_attention"]
    assert count(counters.by_torch, sdpa, *sizes).supplied == []
    inverse, sizes, _ = BY_HAND["cholesky and inverse"]
    assert count(counters.by_torch, inverse, *sizes).supplied == ["cholesky_inverse", "linalg_cholesky_ex"]
    broadcast, sizes, _ = BY_HAND["broadcast on the left"]
    assert count(counters.by_fvcore, broadcast, *sizes).supplied == ["matmul"]
    batched, sizes, _ = BY_HAND["batched"]
    assert count(counters.by_fvcore, batched, *sizes).supplied == []


def test_fvcore_sees_into_autograd_functions_and_leaves_them_as_they_were() -> None:
    function, sizes, _ = BY_HAND["nested autograd functions"]
    assert count(counters.by_fvcore, function, *sizes).remarks == ["traced inside NewStyleProduct, Product"]
    a = torch.ones(2, 2, requires_grad=True)
    assert NewStyleProduct.apply(a, a).grad_fn.name() == "NewStyleProductBackward"


@torch.library.custom_op("softbench_test::hidden", mutates_args=())
def hidden(a: Tensor) -> Tensor:
    return a @ a


@hidden.register_fake
def _(a: Tensor) -> Tensor:
    return torch.empty_like(a)


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize(("function", "name"), [
    (hidden, "softbench_test.*hidden"),
    (torch.fft.fft, "fft"),
    (lambda a: torch.linalg.qr(a)[1], "linalg_qr"),
    (lambda a: torch.linalg.svdvals(a), "linalg_svd"),
], ids=["custom operator", "fft", "qr", "svd"])
def test_an_operator_that_a_counter_cannot_see_is_an_error(function: Callable[..., Any], name: str,
                                                           counter: Callable[..., counters.Count]) -> None:
    with pytest.raises(Uncounted, match=f"cannot see .*{name}"):
        count(counter, function, (4, 4))


@pytest.mark.parametrize("counter", COUNTERS)
def test_a_triton_kernel_is_an_error(counter: Callable[..., counters.Count]) -> None:
    triton = pytest.importorskip("triton")

    @triton.jit
    def kernel(a):
        pass

    def launch(a: Tensor) -> Tensor:
        kernel[(1,)](a)
        return a

    with pytest.raises(Uncounted, match="no counter sees the Triton kernel"):
        count(counter, launch, (4, 4))


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("counter", COUNTERS)
def test_an_operator_with_a_formula_may_launch_its_triton_kernels(counter: Callable[..., counters.Count],
                                                                  device: str) -> None:
    pytest.importorskip("triton")

    def through(x: Tensor, landmarks: Tensor) -> Tensor:
        a = gaussian_kernel(landmarks, impl="eager")
        return landmark_attention(x, landmarks, pseudo_inverse(a, ridge=0.1, impl="triton"), x, impl="triton")

    counted = count(counter, through, (1, 2, 20, 16), (1, 2, 5, 16), device=device)
    n, m, d = 20, 5, 16
    assert counted.operators == {"landmark_attention": 2 * 2 * (3 * n * m * d + m**2 * d), "bmm": 2 * 2 * m**2 * d,
                                 "pseudo_inverse": 2 * m**3}


SMALL = Shape(2, 3, 7, 9, 16)
LONG = Shape(1, 2, 256, 256, 32)
VARIANTS = ["soft:sampling=conv:conv=3", "soft:sampling=random:inverse=newton", "soft_norm:inverse=scaled_newton",
            "soft:inverse=eigh", "soft:inverse=hyperpower:iterations=5", "performer:kernel=relu",
            "nystromformer:conv=33:pooling=avg"]


def audit(text: str, shape: Shape, impl: str = "auto", tensors: str = "meta") -> list[Reading]:
    [spec] = parsing.attentions(text)
    return flops.measure_case(Case(spec, shape, impl=impl), OneAttention(helpers.load(spec.name, **spec.options)),
                              Settings(tensors=tensors))  # type: ignore[arg-type]


def quantities(readings: list[Reading]) -> list[tuple[str, str, str]]:
    return [(r.quantity, r.unit, r.status) for r in readings]


ALL_OK = [(f"flops_{name}", "flop", "ok") for name in ("closed_form", "torch", "fvcore")]


@pytest.mark.parametrize("shape", [SMALL, Shape(1, 2, 1, 50, 8), Shape(1, 1, 1, 1, 8), Shape(1, 1, 64, 64, 32)],
                         ids=["7x9", "1x50", "1x1", "64x64"])
@pytest.mark.parametrize("text", [*helpers.SEEING_ALL, *VARIANTS])
def test_the_three_agree_exactly_for_every_attention(text: str, shape: Shape) -> None:
    readings = audit(text, shape)
    assert quantities(readings) == ALL_OK
    assert len({r.summary for r in readings}) == 1
    assert readings[0].summary == pytest.approx(readings[0].detail["gmac"] * 2e9)


@pytest.mark.parametrize("text", [*helpers.SEEING_ALL, *VARIANTS])
def test_long_sequences_are_audited_without_their_memory(text: str) -> None:
    shape = replace(LONG, rows=64) if text == "gaussian" else LONG  # its tiles, N^2 / 4 Mi of them, are traced singly
    assert quantities(audit(text, shape)) == ALL_OK


def test_real_tensors_give_the_same_counts() -> None:
    for text in ("softmax", "soft:sampling=conv:conv=3:inverse=cholesky", "performer"):
        real, meta = audit(text, SMALL, tensors="real"), audit(text, SMALL)
        assert [r.summary for r in real] == [r.summary for r in meta]
        assert {r.detail["tensors"] for r in real} == {"real"}


def test_a_workload_gives_what_its_case_gives_and_is_left_alone() -> None:
    attention = OneAttention(helpers.load("soft", sampling="conv"))
    case = Case(AttentionSpec("soft"), SMALL)
    built = workload.build(case, attention)
    assert flops.measure(built, Settings()) == flops.measure_case(case, attention, Settings())
    assert {t.device.type for t in built.module.parameters()} == {"cpu"}


def test_a_case_needs_no_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "tokens", lambda *_: pytest.fail("inputs were built"))
    assert quantities(audit("softmax", SMALL)) == ALL_OK


@dataclass(frozen=True)
class NoOptions:
    pass


def plugin(forward: Callable[[Tensor, Tensor, Tensor], Tensor], cost: Callable[[Shape], float],
           impls: tuple[str, ...] = ("eager",)) -> OneAttention:
    class Module(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
            return forward(q, k, v)

    module = SimpleNamespace(SHARES_QK=False, IMPLS=impls, build=lambda shape, options, impl: Module(),
                             cost=lambda shape, options: Cost(cost(shape), 0))
    return OneAttention(Attention("mine", module, NoOptions()))  # type: ignore[arg-type]


def judge(attention: OneAttention, impl: str = "auto", shape: Shape = SMALL) -> list[Reading]:
    return flops.measure_case(Case(AttentionSpec("mine"), shape, impl=impl), attention, Settings())


def scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q @ k.mT @ v


def exact(shape: Shape) -> float:
    return 4.0 * shape.batch * shape.heads * shape.tokens**2 * shape.head_dim


def test_a_cost_off_by_two_fails_all_three_with_the_numbers() -> None:
    readings = judge(plugin(scores, lambda shape: exact(shape) / 2))
    assert [r.status for r in readings] == ["failed"] * 3
    n = exact(SMALL)
    for reading in readings:
        assert reading.note == (f"the counts differ by 100.00%, more than 1%: closed form {n / 2:,.0f}, torch {n:,.0f},"
                                f" fvcore {n:,.0f} flop")
        assert reading.samples  # the numbers themselves are kept for the table


@pytest.mark.parametrize(("factor", "status"), [(1.009, "ok"), (1.011, "failed"), (0.992, "ok"), (0.989, "failed")])
def test_one_per_cent_is_the_limit_and_less_is_told(factor: float, status: str) -> None:
    readings = judge(plugin(scores, lambda shape: exact(shape) * factor))
    assert [r.status for r in readings] == [status] * 3
    assert all("the counts differ by" in r.note for r in readings)


def test_a_zero_beside_a_count_fails() -> None:
    assert [r.status for r in judge(plugin(scores, lambda shape: 0.0))] == ["failed"] * 3
    assert [r.status for r in judge(plugin(lambda q, k, v: v * 2, lambda shape: 0.0))] == ["ok"] * 3


def test_only_an_oracle_may_differ_from_the_closed_form() -> None:
    wrong = plugin(scores, lambda shape: exact(shape) / 2, impls=("fast", "reference"))
    assert [r.status for r in judge(wrong, "fast")] == ["failed"] * 3
    closed, *others = judge(wrong, "reference")
    assert (closed.status, closed.samples) == ("unsupported", [])
    assert closed.note.startswith("cost() does not describe 'reference', the oracle")
    assert [(r.status, r.summary) for r in others] == [("ok", exact(SMALL))] * 2


def test_a_reading_that_cannot_be_taken_fails_alone_and_names_the_operator() -> None:
    closed, by_torch, by_fvcore = judge(plugin(lambda q, k, v: scores(q, k, v) + torch.fft.fft(q).real, exact))
    assert (closed.status, closed.summary) == ("ok", exact(SMALL))
    assert (by_torch.status, by_torch.samples) == ("failed", [])
    assert "torch's counter cannot see aten._fft" in by_torch.note
    assert "fvcore cannot see aten::fft_fft" in by_fvcore.note


def test_a_module_that_reads_values_is_sent_to_real_tensors() -> None:
    attention = plugin(lambda q, k, v: scores(q, k, v) if q.sum().item() else v, exact)
    closed, *others = judge(attention)
    assert closed.status == "ok"
    assert all(r.status == "failed" and r.note.endswith("; try tensors=real") for r in others)
    readings = flops.measure_case(Case(AttentionSpec("mine"), SMALL), attention, Settings(tensors="real"))
    assert quantities(readings) == ALL_OK


def test_a_cost_that_raises_fails_its_own_reading() -> None:
    closed, *others = judge(plugin(scores, lambda shape: {}["no formula"]))
    assert (closed.status, closed.note) == ("failed", "Attention 'mine': cost() raised KeyError: 'no formula'.")
    assert [r.status for r in others] == ["ok", "ok"]


def test_half_precision_counts_the_same() -> None:
    case = Case(AttentionSpec("soft"), SMALL, dtype="float16")
    readings = flops.measure_case(case, OneAttention(helpers.load("soft")), Settings())
    assert [r.summary for r in readings] == [r.summary for r in audit("soft", SMALL)]


def test_counting_is_silent_and_warns_of_nothing() -> None:
    code = ("from softbench import subjects; from softbench.case import *;"
            "from softbench.measures import flops; spec = AttentionSpec('softmax');"
            "rows = flops.measure_case(Case(spec, Shape(1, 1, 2, 2, 4)), subjects.load(spec), flops.Settings());"
            "print([r.summary for r in rows])")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[256.0, 256.0, 256.0]\n", "")
