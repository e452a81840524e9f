"""The Triton kernels of Gaussian attention, in Triton's interpreter: judged by float64, against plain torch's error.

The interpreter runs float32 and float16 as a GPU does, but for the order of sums; bfloat16 and speed are in tests/gpu.
"""

from __future__ import annotations

import subprocess
import sys

import contract
import helpers
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from softbench.case import Shape
from softbench.errors import Unsupported
from softbench.ops import dispatch
from softbench.ops.gaussian_attention import _flops, gaussian_attention, gaussian_kernel, landmark_attention
from softbench.ops.pseudo_inverse import pseudo_inverse

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not dispatch.interpreted(), reason="a GPU is here: see tests/gpu")

EPS = {torch.float32: torch.finfo(torch.float32).eps, torch.float16: torch.finfo(torch.float16).eps}
Tensors = tuple[Tensor, ...]


def sides(queries: int, keys: int, head_dim: int, value_dim: int, dtype: torch.dtype = torch.float32,
          scale: float = 1.0, groups: tuple[int, int] = (1, 2)) -> Tensors:
    """x [*groups, queries, D], k [*groups, keys, D], v [*groups, keys, E]; x and k share centres."""
    x, k, _ = helpers.inputs(Shape(*groups, 1, max(queries, keys), head_dim), "structured", scale=scale)
    _, _, v = helpers.inputs(Shape(*groups, 1, keys, head_dim), value_dim=value_dim)
    return x[:, :, :queries].to(dtype), k[:, :, :keys].to(dtype), v.to(dtype)


def attend(impl: str, scale: float = 0.5):
    return lambda x, k, v: gaussian_attention(x, k, v, scale=scale, impl=impl)


def with_gradients(call, tensors: Tensors) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = call(*leaves)
    return [y.detach(), *helpers.gradients(y, leaves)]


def judge(call, tensors: Tensors, slack: float = 16.0) -> None:
    """Value and gradients of call("triton") are no further from float64 than call("eager")'s, plus rounding."""
    ours, plain = with_gradients(call("triton"), tensors), with_gradients(call("eager"), tensors)
    truth = with_gradients(call("reference"), tuple(t.double() for t in tensors))
    for i, (a, b, c) in enumerate(zip(ours, plain, truth, strict=True)):
        assert a.dtype == b.dtype
        assert a.shape == c.shape
        error, theirs = helpers.relative(a, c), helpers.relative(b, c)
        bound = theirs + (slack if a.dtype == torch.float32 else 1) * EPS[a.dtype]
        assert error <= bound, f"{f'gradient {i - 1}' if i else 'value'}: {error:.2g}, plain torch {theirs:.2g}"


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize(("queries", "keys", "head_dim", "value_dim"), [
    (1, 1, 16, 16), (1, 49, 32, 24), (63, 1, 16, 16), (63, 50, 20, 16), (197, 49, 16, 32), (66, 70, 16, 65),
    (5, 520, 16, 16), (3, 5, 128, 100)])
def test_is_as_right_as_plain_torch(queries: int, keys: int, head_dim: int, value_dim: int,
                                    dtype: torch.dtype) -> None:
    judge(attend, sides(queries, keys, head_dim, value_dim, dtype, groups=(1, 1)))


def test_many_tokens() -> None:
    x, k, v = sides(3137, 49, 16, 16, torch.float16, groups=(1, 1))
    judge(lambda impl: lambda x, v: gaussian_attention(x, k.to(x.dtype), v, scale=0.5, impl=impl), (x, v))


@pytest.mark.parametrize("scale", [5.0, 30.0])
@pytest.mark.parametrize("dtype", EPS)
def test_large_tokens(scale: float, dtype: torch.dtype) -> None:
    judge(lambda impl: attend(impl, 0.5), sides(70, 33, 16, 16, dtype, scale, groups=(1, 1)), slack=64)


@pytest.mark.parametrize("dtype", EPS)
def test_identical_tokens_have_score_one_and_no_gradient(dtype: torch.dtype) -> None:
    x = torch.full((1, 1, 70, 16), 10.7, dtype=dtype, requires_grad=True)
    v = torch.ones(1, 1, 70, 16, dtype=dtype)
    y = gaussian_attention(x, x, v, impl="triton")
    assert helpers.relative(y, torch.full_like(y, 70)) < EPS[dtype] + 1e-5
    assert float(helpers.gradients(y, [x])[0].abs().max()) < 0.05


def test_offset_in_common_costs_no_digits_in_float32() -> None:
    x, k, v = sides(70, 33, 16, 16)
    tensors = x + 4096, k + 4096, v
    truth = gaussian_attention(*(t.double() for t in tensors), impl="reference")
    assert helpers.relative(gaussian_attention(*tensors, impl="triton"), truth) < 1e-5
    flipped = gaussian_attention(*(t.double() for t in (tensors[1], tensors[0], x)), impl="reference")
    assert helpers.relative(gaussian_attention(tensors[1], tensors[0], x, impl="triton"), flipped) < 1e-5


def test_tf32_rounds_tokens_before_their_norms_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tokens that are not far: its error is that of TF32's 10 bits, and scores are at most 1."""
    tensors = sides(70, 33, 16, 16, groups=(1, 1))
    truth = with_gradients(attend("reference"), tuple(t.double() for t in tensors))
    exact = gaussian_attention(*tensors, scale=0.5, impl="triton")
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    ours = with_gradients(attend("triton"), tensors)
    assert helpers.relative(ours[0], exact) > 1e-6
    assert max(helpers.relative(a, b) for a, b in zip(ours, truth, strict=True)) < 0.1
    ones = torch.ones(1, 1, 1, 16)
    assert float(gaussian_attention(tensors[0][:, :, :1], tensors[0][:, :, :1], ones, impl="triton").max()) == 1


@pytest.mark.parametrize("half_side", ["queries", "keys"])
def test_float32_beside_half_keeps_float32(half_side: str) -> None:
    x, k, v = sides(70, 33, 16, 16, groups=(1, 1))
    tensors = (x.half(), k, v) if half_side == "queries" else (x, k.half(), v.half())
    truth = gaussian_attention(*(t.double() for t in tensors), impl="reference")
    bound = 2e-6 if half_side == "queries" else EPS[torch.float16]  # the result is in the dtype of v
    assert helpers.relative(gaussian_attention(*tensors, impl="triton"), truth) < bound
    judge(attend, tensors)


@pytest.mark.parametrize("dtype", EPS)
def test_values_out_of_the_range_of_half_numbers(dtype: torch.dtype) -> None:
    x, k, v = sides(70, 33, 16, 16, groups=(1, 1))
    tensors = x.to(dtype), k, 1e6 * v * torch.logspace(-6, 1, 33)[:, None]
    truth = gaussian_attention(*(t.double() for t in tensors), impl="reference")
    assert helpers.relative(gaussian_attention(*tensors, impl="triton"), truth) < 4e-6


@pytest.mark.parametrize("dtype", EPS)
def test_strided_tokens_and_memory_full_of_nan(dtype: torch.dtype) -> None:
    """Nothing outside the tensors is read, nothing is read before it is written, and heads stay side by side."""
    clean = sides(70, 49, 20, 24, dtype)
    room = [torch.full((1, t.shape[2] + 9, 2, t.shape[3] + 5), torch.nan, dtype=dtype) for t in clean]
    strided = []
    for space, t in zip(room, clean, strict=True):
        space[:, 3:-6, :, 1:-4] = t.transpose(1, 2)
        strided.append(space[:, 3:-6, :, 1:-4].transpose(1, 2))
    with contract._poisoned():
        for impl_call in (attend("triton"), lambda x, k, v: gaussian_attention(k, x, x, impl="triton")):
            leaves = [t.detach().requires_grad_() for t in strided]
            y = impl_call(*leaves)
            assert torch.equal(y, impl_call(*clean))
            gradients = torch.autograd.grad(y.sum(), leaves, allow_unused=True)
            assert all(g is None or g.isfinite().all() for g in gradients)
    assert y.transpose(1, 2).is_contiguous()


def test_tokens_further_apart_than_32_bits_reach_are_copied() -> None:
    """Their tile would wrap around. Only strides can be so large here: the memory is not there."""
    from softbench.ops.gaussian_attention import _launches

    for strides, copied in (((1, 1, 1 << 23, 1), False), ((1, 1, 1 << 24, 1), True), ((1, 1, 64, 1 << 24), True),
                            ((1 << 40, 1 << 35, 64, 1), False)):
        x = torch.empty_strided((2, 2, 130, 16), strides, device="meta")
        assert (_launches.near(x) is not x) == copied
        assert _launches.near(x).stride() == ((2 * 130 * 16, 130 * 16, 16, 1) if copied else strides)
    row, columns = _launches.launch_sizes(4096, 64, "half", False), _launches.LARGEST_TILE
    assert max(row.owned, row.streamed, _launches._few_keys_launch(64, "half").streamed) <= columns


def test_a_sample_is_the_same_in_any_batch() -> None:
    tensors = sides(40, 530, 16, 16, torch.float16, groups=(1, 1))
    mates = [torch.cat([30 * t, t, 0 * t]) for t in tensors]
    for call in (attend("triton"), lambda x, k, v: gaussian_attention(k, x, x, impl="triton")):
        assert torch.equal(call(*mates)[1:2], call(*tensors))


def test_nan_stays_nan_where_it_is() -> None:
    x, k, v = sides(70, 33, 16, 16)
    x[0, 1, 5, 3] = torch.nan
    bad = gaussian_attention(x, k, v, impl="triton").isnan()
    assert bad[0, 1, 5].all()
    assert not bad[0, 0].any()


def middle_of(landmarks: Tensor) -> Tensor:
    return pseudo_inverse(gaussian_kernel(landmarks), ridge=0.01)


@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize(("tokens", "count", "head_dim", "value_dim"), [
    (63, 49, 32, 32), (520, 9, 20, 16), (40, 1, 16, 16), (72, 70, 16, 16), (20, 9, 80, 16)])
def test_through_landmarks(tokens: int, count: int, head_dim: int, value_dim: int, dtype: torch.dtype) -> None:
    """In one pass where a program holds all landmarks, and from the other operators where it does not."""
    x, _, v = sides(tokens, tokens, head_dim, value_dim, dtype, groups=(1, 1))
    scale = head_dim**-0.25
    landmarks = (x[:, :, :count] * 0.9).float() * scale
    judge(lambda impl: lambda *t: landmark_attention(*t, scale=scale, impl=impl),
          (x, landmarks, middle_of(landmarks), v), slack=24)


@pytest.mark.parametrize("name", ["soft", "soft_norm", "gaussian"])
@pytest.mark.parametrize("dtype", EPS)
@pytest.mark.parametrize("check", ["shapes", "strides"])
def test_attentions_are_near_to_their_oracles(name: str, dtype: torch.dtype, check: str) -> None:
    attention = helpers.load(name, **({} if name == "gaussian" else {"landmarks": 9}))
    for grid in ((7, 9), (2, 3)) if check == "shapes" else ((8, 8),):
        shape = Shape(1, 2, *grid, 16)
        q, _, v = helpers.inputs(shape, "structured", dtype=dtype, value_dim=11)
        if check == "strides":
            q, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, v))
        module, oracle = attention.build(shape, "triton"), helpers.build(attention, shape, "reference")
        ours = with_gradients(lambda q, v, m=module, s=shape: m(q, q, v, grid=s.grid), (q, v))
        truth = with_gradients(lambda q, v, m=oracle, s=shape: m(q, q, v, grid=s.grid), (q.double(), v.double()))
        for a, b in zip(ours, truth, strict=True):
            assert a.dtype == dtype
            assert helpers.relative(a, b) < (1e-4 if dtype == torch.float32 else 2e-3)


def test_second_backward_is_refused() -> None:
    x, k, v = (t.requires_grad_() for t in sides(9, 5, 16, 16))
    landmarks = k.detach()
    for y in (gaussian_attention(x, k, v, impl="triton"),
              landmark_attention(x, landmarks, middle_of(landmarks), x, impl="triton")):
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize(("change", "message"), [
    (lambda x, k, v: (x.double(), k, v), "float64 is none of float32, float16, bfloat16; use impl=eager"),
    (lambda x, k, v: (x.bfloat16(), k, v), "interpreter multiplies bfloat16 wrongly"),
    (lambda x, k, v: (x.repeat(1, 1, 1, 9), k.repeat(1, 1, 1, 9), v), "128 dims at most, not 144"),
])
def test_what_the_kernels_cannot_take_is_told(change, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        gaussian_attention(*change(*sides(9, 5, 16, 16)), impl="triton")


def test_the_cpu_has_them_in_the_interpreter_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(Unsupported, match="needs an NVIDIA GPU, and the device is cpu"):
        gaussian_attention(*sides(9, 5, 16, 16), impl="triton")
    tensors = sides(9, 5, 16, 16)
    assert torch.equal(gaussian_attention(*tensors), gaussian_attention(*tensors, impl="eager"))


def test_compile_export_and_autocast_keep_them() -> None:
    """One graph without breaks, that holds the operators; autocast changes nothing within."""
    x, k, v = sides(20, 5, 16, 16, groups=(1, 1))

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
            y = gaussian_attention(x, k, v, impl="triton")
            return y + landmark_attention(x, k, gaussian_kernel(k), y, impl="triton")

    module = Module()
    truth = with_gradients(module, (x, k, v))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for a, b in zip(with_gradients(compiled, (x, k, v)), truth, strict=True):
        assert helpers.relative(a, b) < 1e-6
    program = torch.export.export(module, (x, k, v))
    names = {str(node.target) for node in program.graph.nodes}
    assert {"softbench.gaussian_attention.default", "softbench.landmark_attention.default"} <= names
    assert helpers.relative(program.module()(x, k, v), truth[0]) < 1e-6  # as the compiled one: sums in another order
    with torch.autocast("cpu", torch.bfloat16):
        y = gaussian_attention(x, k, v, impl="triton")
    assert y.dtype == torch.float32
    assert torch.equal(y, gaussian_attention(x, k, v, impl="triton"))


def test_operators_pass_torchs_own_checks() -> None:
    from softbench.ops.gaussian_attention import triton  # noqa: F401

    x, k, v = (t.requires_grad_() for t in sides(9, 5, 16, 16, groups=(1, 1)))
    ops = torch.ops.softbench
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(ops.gaussian_attention.default, (x, k, v, 0.25, torch.float32), test_utils=checks)
    torch.library.opcheck(ops.landmark_attention.default, (x, k, gaussian_kernel(k).detach(), x, 0.25),
                          test_utils=checks)
    with torch.no_grad():
        torch.library.opcheck(ops.gaussian_gradient.default, (x, k, x, k, 0.25), test_utils=checks)


def test_the_first_call_is_counted_too() -> None:
    """In a process of its own: a counter knows the operators that were there when it was opened."""
    code = ("import torch; from torch.utils.flop_counter import FlopCounterMode\n"
            "from softbench.attention import gaussian; from softbench.case import Shape\n"
            "made, x = gaussian.build(Shape(1, 1, 3, 3, 16), gaussian.Options(), 'triton'), torch.ones(1, 1, 9, 16)\n"
            "with FlopCounterMode(display=False) as counter: made(x, x, x, grid=(3, 3))\n"
            "print(counter.get_total_flops())")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == _flops.attention(1, 9, 9, 16, 16)


def test_flops_are_counted_in_both_directions() -> None:
    x, k, v = (t.requires_grad_() for t in sides(20, 5, 16, 8))
    with FlopCounterMode(display=False) as counter:
        gaussian_attention(x, k, v, impl="triton").sum().backward()
        y = landmark_attention(x, k.detach(), torch.eye(5).expand(1, 2, 5, 5), x, impl="triton")
        y.sum().backward()
    truth = (2 * _flops.attention(2, 20, 5, 16, 8) + 2 * _flops.gradient(2, 20, 5, 16, 8)
             + _flops.through_landmarks(2, 20, 5, 16, 16) + _flops.through_landmarks_gradients(2, 20, 5, 16, 16))
    assert counter.get_total_flops() == truth
    assert _flops.attention(1, 10, 7, 3, 2) == 2 * 10 * 7 * 5
