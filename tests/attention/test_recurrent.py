"""Causal attentions by a state: chunks, single tokens and steps agree, with each other and with other people's code."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import helpers
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import softbench
from softbench import plugins
from softbench.attention import _recurrence
from softbench.case import Case, Shape
from softbench.contracts.attention import Attention
from softbench.errors import Unsupported, UsageError
from softbench.inputs import gates
from softbench.measures.flops import audit
from softbench.subjects import OneAttention, probe

NAMES = [name for name in plugins.names("attention") if plugins.facts("attention", name).get("CAUSAL") == "always"]
LENGTHS = (1, 2, 3, 13, 63, 64, 65, 131)
Call = tuple[tuple[Tensor, Tensor, Tensor], dict[str, Tensor]]


def shape(tokens: int, head_dim: int = 4) -> Shape:
    return Shape(2, 2, 1, tokens, head_dim, causal=True)


def drawn(attention: Attention, at: Shape, dtype: torch.dtype = torch.float64, value_dim: int = 3) -> Call:
    q, k, v = helpers.inputs(at, value_dim=value_dim)
    if getattr(attention.module, "UNIT_KEYS", False):
        k = F.normalize(k, dim=-1)
    more = gates.draw(attention.gates.values(), at, seed=3)
    tensors = (q.to(dtype), k.to(dtype), v.to(dtype))
    return tensors, {name: gate.double() for name, gate in zip(attention.gates, more, strict=True)}


def at_extremes(attention: Attention, call: Call, values: Mapping[str, float]) -> Call:
    """The call with some of its gates at one value throughout."""
    return call[0], {name: torch.full_like(gate, values[name]) if name in values else gate
                     for name, gate in call[1].items()}


def with_gradients(attention: Attention, at: Shape, impl: str, call: Call) -> list[Tensor]:
    tensors = [t.detach().clone().requires_grad_() for t in (*call[0], *call[1].values())]
    q, k, v, *more = tensors
    y = helpers.build(attention, at, impl)(q, k, v, grid=at.grid, **dict(zip(call[1], more, strict=True)))
    return [y, *helpers.gradients(y, tensors)]


def assert_near(one: list[Tensor], other: list[Tensor], bound: float = 1e-10) -> None:
    for place, (a, b) in enumerate(zip(one, other, strict=True)):
        assert a.isfinite().all(), place
        assert float((a - b).detach().norm()) <= bound * float(b.detach().norm()) + 1e-13, place


def test_there_are_six() -> None:
    assert NAMES == ["delta", "gated_delta", "gla", "kda", "retention", "ssd"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tokens", LENGTHS)
def test_chunks_are_single_tokens(name: str, tokens: int) -> None:
    attention, at = helpers.load(name), shape(tokens)
    call = drawn(attention, at)
    assert_near(with_gradients(attention, at, "chunk", call), with_gradients(attention, at, "recurrent", call))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "retention"])
@pytest.mark.parametrize("values", [{"g": 0.0}, {"g": -1e4}, {"g": -torch.inf}, {"g": -40.0, "beta": 1.0},
                                    {"beta": 0.0}, {"beta": 1.0}, {"g": 0.0, "beta": 1.0}])
def test_gates_at_their_ends_are_right(name: str, values: dict[str, float]) -> None:
    attention, at = helpers.load(name), shape(70)
    call = at_extremes(attention, drawn(attention, at), values)
    chunk, single = (with_gradients(attention, at, impl, call) for impl in ("chunk", "recurrent"))
    assert_near(chunk, single)
    if values == {"beta": 0.0} and "beta" in attention.gates:
        assert not chunk[0].any()


@pytest.mark.parametrize("name", ["gla", "kda", "ssd", "gated_delta"])
def test_a_strong_decay_costs_no_digits_of_the_tokens_after_it(name: str) -> None:
    """Where decays are differences of cumulative sums, float32 has none left behind a sum of thousands."""
    attention, at = helpers.load(name), shape(64, head_dim=8)
    (q, k, v), more = drawn(attention, at)
    more["g"][:, :, 8] = -3e6
    single = [t.float() for t in (q, k, v)]
    run = helpers.build(attention, at, "chunk").float()
    y = run(*single, grid=at.grid, **{name: gate.float() for name, gate in more.items()})
    truth = helpers.build(attention, at, "recurrent")(*(t.double() for t in single), grid=at.grid, **more)
    assert helpers.relative(y, truth) < 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("impl", _recurrence.IMPLS)
def test_steps_and_halves_are_the_whole(name: str, impl: str) -> None:
    attention, at = helpers.load(name), shape(70)
    (q, k, v), more = drawn(attention, at)
    module = softbench.create(name, causal=True, impl=impl)
    whole = module(q, k, v, **more)
    for cuts in ([35, 35], [1] * 3 + [64] + [1] * 3):
        state, rows = module.state(at, value_dim=3), []
        for parts in zip(*(t.split(cuts, 2) for t in (q, k, v, *more.values())), strict=True):
            y, state = module.step(*parts[:3], state, **dict(zip(more, parts[3:], strict=True)))
            rows.append(y)
        assert helpers.relative(torch.cat(rows, 2), whole) < 1e-12
    with pytest.raises(UsageError, match=r"The state must be \[B, H, D, E\] = \(2, 2, 4, 3\), not \(2, 2, 4, 4\)"):
        module.step(q, k, v, torch.zeros(2, 2, 4, 4), **more)


@pytest.mark.parametrize("name", [*NAMES, "linear", "performer", "softmax", "window"])
def test_of_no_samples_there_is_nothing(name: str) -> None:
    attention, at = helpers.load(name), shape(70)
    (q, k, v), more = drawn(attention, at)
    inputs = [t[:0].requires_grad_() for t in (q, k, v, *more.values())]
    for impl in attention.module.IMPLS:
        y = helpers.build(attention, at, impl)(*inputs[:3], grid=at.grid, **dict(zip(more, inputs[3:], strict=True)))
        assert y.shape == (0, 2, 70, 3)
        assert [g.shape for g in helpers.gradients(y, inputs)] == [t.shape for t in inputs]


@pytest.mark.parametrize("name", [*NAMES, "linear"])
def test_a_state_of_another_shape_is_told(name: str) -> None:
    attention, at = helpers.load(name), shape(3)
    (q, k, v), more = drawn(attention, at)
    module = softbench.create(name, causal=True)
    right = module.state(at, value_dim=3)
    of_one = module.state(replace(at, batch=1), value_dim=3)
    for wrong in (None, of_one, module.state(at), [right], (), (None, 0), torch.zeros(2)):
        with pytest.raises(UsageError, match="The state must be") as error:
            module.step(q, k, v, wrong, **more)
        assert "\n" not in str(error.value)
    module.step(q, k, v, right, **more)
    for wrong in (None, q[0, 0], q[:, :, :0]):
        with pytest.raises(UsageError):
            module.step(wrong, k, v, right, **more)


def test_a_file_whose_state_depends_on_the_shape_alone_is_asked_so() -> None:
    class Counting(torch.nn.Module):
        def state(self, shape: Shape) -> int:
            return shape.head_dim

    module = softbench.create("linear", causal=True)
    module.core = Counting()
    assert [module.state(shape(3)), module.state(shape(3), value_dim=4)] == [4, 4]
    with pytest.raises(TypeError):
        module.state(shape(3), value_dim=3)


def test_linear_steps_are_the_whole_and_others_have_no_state() -> None:
    at = shape(70)
    q, k, v = helpers.inputs(at, value_dim=3)
    module = softbench.create("linear", causal=True, eps=0.1)
    state, rows = module.state(at, value_dim=3), []
    for parts in zip(*(t.split([1, 66, 3], 2) for t in (q, k, v)), strict=True):
        y, state = module.step(*parts, state)
        rows.append(y)
    assert helpers.relative(torch.cat(rows, 2), module(q, k, v)) < 1e-12
    for name, causal in (("linear", False), ("softmax", True)):
        with pytest.raises(Unsupported, match=f"{name} has no state"):
            softbench.create(name, causal=causal).state(at)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("impl", _recurrence.IMPLS)
def test_no_row_depends_on_a_later_token(name: str, impl: str) -> None:
    attention, at = helpers.load(name), shape(70)
    (q, k, v), more = drawn(attention, at)
    tensors = [t.requires_grad_() for t in (q, k, v, *more.values())]
    y = helpers.build(attention, at, impl)(*tensors[:3], grid=at.grid, **dict(zip(more, tensors[3:], strict=True)))
    for gradient in torch.autograd.grad(y[:, :, :40].square().sum(), tensors):
        assert gradient[:, :, :40].any()
        assert not gradient[:, :, 40:].any()


@pytest.mark.parametrize("name", NAMES)
def test_segments_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attention, at = helpers.load(name), shape(131)
    call = drawn(attention, at)
    truth = with_gradients(attention, at, "chunk", call)
    monkeypatch.setattr(_recurrence, "_AT_ONCE", 1)
    assert_near(with_gradients(attention, at, "chunk", call), truth, 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    attention, at = helpers.load(name), Shape(1, 1, 1, 3, 2, causal=True)
    (q, k, v), more = drawn(attention, at, value_dim=2)
    module = helpers.build(attention, at, "chunk")

    def call(*tensors: Tensor) -> Tensor:
        return module(*tensors[:3], grid=at.grid, **dict(zip(more, tensors[3:], strict=True)))

    torch.autograd.gradcheck(call, [t.requires_grad_() for t in (q, k, v, *more.values())])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_is_near_to_float64(name: str, dtype: torch.dtype) -> None:
    attention, at = helpers.load(name), shape(70, head_dim=16)
    (q, k, v), more = drawn(attention, at, dtype=dtype)
    y = helpers.build(attention, at, "chunk").to(dtype)(q, k, v, grid=at.grid, **more)
    truth = helpers.build(attention, at, "recurrent")(q.double(), k.double(), v.double(), grid=at.grid, **more)
    assert y.dtype == dtype
    assert helpers.relative(y, truth) < {torch.float32: 1e-5, torch.bfloat16: 1e-2}.get(dtype, 1e-3)


@pytest.mark.parametrize("name", [*NAMES, "linear", "performer", "performer:kernel=relu", "window", "softmax"])
def test_costs_are_what_torch_and_fvcore_count(name: str) -> None:
    name, _, option = name.partition(":")
    subject = OneAttention(helpers.load(name, **dict([option.split("=")] if option else [])))
    for sizes in ((2, 3, 1, 1, 4), (1, 2, 1, 70, 16), (1, 2, 5, 64, 8)):
        case = Case(subject.spec, Shape(*sizes, causal=True))
        readings = audit.measure_case(case, subject, "meta")
        assert [reading.status for reading in readings] == ["ok"] * 3, [reading.note for reading in readings]
        assert subject.expected(case).elements > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
def test_workloads_are_right(name: str, mode: str) -> None:
    subject = OneAttention(helpers.load(name))
    case = Case(subject.spec, Shape(2, 2, 5, 14, 8, causal=True), mode=mode)
    assert probe.probe(case, subject) > 0
    with pytest.raises(Unsupported, match="is causal alone"):
        probe.probe(replace(case, shape=replace(case.shape, causal=False)), subject)


@pytest.mark.parametrize("name", ["delta", "gated_delta", "kda"])
def test_normalise_divides_by_lengths(name: str) -> None:
    attention, at = helpers.load(name), shape(20)
    (q, k, v), more = drawn(attention, at)
    truth = softbench.create(name, causal=True)(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, **more)
    assert helpers.relative(softbench.create(name, causal=True, normalise=True)(q, 5 * k, v, **more), truth) < 1e-4


def other(package: str, file: str) -> ModuleType:
    """A file of plain torch out of a package, without importing that."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    path = Path(found.submodule_search_locations[0], file)
    spec = importlib.util.spec_from_file_location(f"{package}_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_token(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def gated_delta_of_attention_gym(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    module = other("attn_gym", "linear/gdn/impl/reference.py")
    y, _ = module.recurrent_forward(*map(by_token, (q, k, v, g, beta)), scale=q.shape[-1] ** -0.5, initial_state=None,
                                    output_final_state=False)
    return by_token(y)


def kda_of_attention_gym(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    module = other("attn_gym", "linear/kda/naive.py")  # whose decays are powers of 2
    y, *_ = module.naive_recurrent_kda(*map(by_token, (q, k, v, g / torch.log(torch.tensor(2.0).double()), beta)))
    return by_token(y)


def delta_of_attention_gym(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Tensor:
    return gated_delta_of_attention_gym(q, k, v, torch.zeros_like(beta), beta)


def alike(g: Tensor, q: Tensor) -> Tensor:
    """Decays [H], the same for all tokens of a head, as [B, H, N]."""
    return g[:, None].expand(q.shape[:3])


def written_otherwise(q: Tensor, k: Tensor, v: Tensor, g: Tensor, scale: float) -> Tensor:
    """sum_(j <= i) (q_i . e^(g_(j+1) + ... + g_i) k_j) v_j, all N x N at once, in float64."""
    g = g[..., None].expand(q.shape) if g.dim() == 3 else g
    cumulative = g.cumsum(2)
    decay = (cumulative[:, :, :, None] - cumulative[:, :, None]).exp()
    scores = torch.einsum("bhid,bhjd,bhijd->bhij", q * scale, k, decay).tril()
    return scores @ v


ORACLES: dict[str, Callable[..., Tensor]] = {
    "gated_delta": gated_delta_of_attention_gym, "kda": kda_of_attention_gym, "delta": delta_of_attention_gym,
    "gla": lambda q, k, v, g: written_otherwise(q, k, v, g, q.shape[-1] ** -0.5),
    "ssd": lambda q, k, v, g: written_otherwise(q, k, v, g, 1.0),
    "retention": lambda q, k, v: written_otherwise(q, k, v, alike(torch.tensor([31 / 32, 63 / 64]).double().log(), q),
                                                   q.shape[-1] ** -0.5),
}


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_those_of_another_code_in_float64(name: str) -> None:
    attention, at = helpers.load(name), shape(21)
    (q, k, v), more = drawn(attention, at)
    module = helpers.build(attention, at, "chunk")
    helpers.assert_agrees(lambda q, k, v, *more: module(q, k, v, grid=at.grid, **dict(zip(attention.gates, more,
                          strict=True))), ORACLES[name], (q, k, v, *more.values()), 1e-9)


FLASH: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "retention": ("retention", lambda fla, q, k, v: fla.naive_retention(q, k, v)),
    "gla": ("gla", lambda fla, q, k, v, g: by_token(fla.naive_recurrent_gla(*map(by_token, (q, k, v, g)))[0])),
    "ssd": ("simple_gla", lambda fla, q, k, v, g: by_token(fla.naive_chunk_simple_gla(
        *map(by_token, (q, k, v, g)), scale=1.0)[0])),
    "delta": ("delta_rule", lambda fla, q, k, v, beta: fla.delta_rule_recurrence(q, k, v, beta)[0]),
    "gated_delta": ("gated_delta_rule", lambda fla, q, k, v, g, beta: by_token(fla.naive_recurrent_gated_delta_rule(
        *map(by_token, (q, k, v, beta, g)))[0])),
    "kda": ("kda", lambda fla, q, k, v, g, beta: by_token(fla.naive_recurrent_kda(
        *map(by_token, (q, k, v, g, beta)))[0])),
}


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_flash_linear_attention(name: str) -> None:
    """Its files of plain torch compute in float32, whatever they are given."""
    folder, call = FLASH[name]
    fla = other("fla", f"ops/{folder}/naive.py")
    attention, at = helpers.load(name), shape(21)
    (q, k, v), more = drawn(attention, at)
    y = helpers.build(attention, at, "chunk")(q, k, v, grid=at.grid, **more)
    truth = call(fla, *(t.float() for t in (q, k, v, *more.values())))
    assert helpers.relative(y, truth) < 1e-5


def test_lightnings_slopes_are_alibis() -> None:
    q, k, v = helpers.inputs(shape(6))
    y = softbench.create("retention", causal=True, decay="lightning")(q, k, v)
    truth = written_otherwise(q, k, v, alike(torch.tensor([-1 / 16, -1 / 256]).double(), q), 0.5)
    assert helpers.relative(y, truth) < 1e-12


def test_windows_slide() -> None:
    at = Shape(1, 2, 1, 300, 4, causal=True)
    q, k, v = helpers.inputs(at)
    i = torch.arange(300)
    for size in (1, 7, 100, 299, 400):
        attention = helpers.load("window", size=size)
        mask = (i[:, None] >= i) & (i[:, None] < i + size)
        truth = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        for impl in attention.module.IMPLS:
            assert helpers.relative(helpers.build(attention, at, impl)(q, k, v, grid=at.grid), truth) < 1e-12
    with pytest.raises(Unsupported, match="its window slides where it is causal, and is not shifted"):
        helpers.build(helpers.load("window", shift=3), at)
