"""The Triton kernels on a GPU: judged by float64 against plain torch's error, in all dtypes, and their memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softbench.case import AttentionSpec, Shape
from softbench.contracts import attention as _contract
from softbench.ops.average_pool import add_gradient, avg_pool
from softbench.ops.gaussian_attention import gaussian_attention, gaussian_kernel, landmark_attention
from softbench.ops.pseudo_inverse import pseudo_inverse, residual

pytestmark = pytest.mark.gpu

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Tensor cores truncate where plain float32 products round; TF32 keeps 10 bits.
SLACK = {torch.float32: 32.0, torch.float16: 1.0, torch.bfloat16: 1.0}


def relative(result: Tensor, truth: Tensor) -> float:
    return float((result.detach().double() - truth.detach().double()).norm() / truth.detach().double().norm())


def tokens(count: int, width: int, dtype: torch.dtype, groups: tuple[int, int] = (2, 3), seed: int = 0) -> Tensor:
    """Tokens around seven centres, so that some are near to each other."""
    generator = torch.Generator("cuda").manual_seed(seed)
    centres = torch.randn(*groups, 7, width, generator=generator, device="cuda")
    noise = torch.randn(*groups, count, width, generator=generator, device="cuda")
    return (centres[:, :, torch.arange(count, device="cuda") % 7] + 0.5 * noise).to(dtype)


def judge(call, tensors: tuple[Tensor, ...]) -> None:
    """Value and gradients of call("triton") are no further from float64 than call("eager")'s, plus rounding."""
    results = {}
    for impl in ("triton", "eager", "reference"):
        leaves = [(t.double() if impl == "reference" else t).detach().clone().requires_grad_() for t in tensors]
        y = call(impl)(*leaves)
        dy = torch.randn(y.shape, generator=torch.Generator("cuda").manual_seed(1), device="cuda").to(y.dtype)
        results[impl] = [y, *torch.autograd.grad(y, leaves, dy)]
    for i, (ours, plain, truth) in enumerate(zip(*results.values(), strict=True)):
        error, theirs = relative(ours, truth), relative(plain, truth)
        bound = theirs + SLACK[ours.dtype] * torch.finfo(ours.dtype).eps
        assert error <= bound, f"{f'gradient {i - 1}' if i else 'value'}: {error:.2g}, plain torch {theirs:.2g}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("queries", "keys", "head_dim", "value_dim"), [
    (1, 1, 16, 16), (63, 49, 32, 32), (3137, 50, 64, 64), (49, 3137, 64, 64), (197, 1, 20, 24), (700, 700, 64, 32),
    (197, 80, 128, 128), (49, 12544, 32, 32), (130, 60, 100, 8)])
def test_is_as_right_as_plain_torch(queries, keys, head_dim, value_dim, dtype):
    x, k = tokens(queries, head_dim, dtype), tokens(keys, head_dim, dtype)
    judge(lambda impl: lambda x, k, v: gaussian_attention(x, k, v, scale=head_dim**-0.25, impl=impl),
          (x, k, tokens(keys, value_dim, dtype, seed=2)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("count", "landmarks", "width"), [(3137, 49, 64), (784, 49, 32), (197, 1, 16), (600, 100, 64),
                                                           (600, 49, 128)])
def test_through_landmarks(count, landmarks, width, dtype):
    x, scale = tokens(count, width, dtype), width**-0.25
    points = x[:, :, :landmarks].float() * scale
    middle = pseudo_inverse(gaussian_kernel(points), ridge=0.01, impl="eager")
    judge(lambda impl: lambda *t: landmark_attention(*t, scale=scale, impl=impl),
          (x, points, middle, tokens(count, width, dtype, seed=2)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("grid", "to"), [((56, 56), (7, 7)), ((128, 128), (7, 7)), ((1, 197), (1, 49))])
def test_pooling_and_its_gradient(grid, to, dtype):
    x, dy = tokens(grid[0] * grid[1], 64, dtype), tokens(to[0] * to[1], 64, torch.float32, seed=1)
    exact, dx = x.double(), x.clone()
    truth = avg_pool(exact, grid, to)
    assert relative(avg_pool(x, grid, to, torch.float32, "triton"), truth) < 1e-6
    add_gradient(dx, dy, grid, to, "triton")
    add_gradient(exact, dy.double(), grid, to)
    assert relative(dx, exact) <= torch.finfo(dtype).eps


def test_tf32_is_followed():
    x, k, v = (tokens(300, 64, torch.float32, seed=seed) for seed in range(3))
    truth = gaussian_attention(x.double(), k.double(), v.double(), scale=0.3, impl="reference")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        coarse = relative(gaussian_attention(x, k, v, scale=0.3, impl="triton"), truth)
    finally:
        torch.set_float32_matmul_precision(before)
    assert relative(gaussian_attention(x, k, v, scale=0.3, impl="triton"), truth) < 1e-5 < coarse < 1e-2


@pytest.mark.parametrize("method", ["cholesky", "scaled_newton", "newton"])
@pytest.mark.parametrize("size", [1, 16, 49, 50, 64, 100, 128])
def test_inverse_is_as_right_as_plain_torch(size, method):
    for scale in (0.3, 1.0, 30.0):
        a = gaussian_kernel(tokens(size, 16, torch.float32, (4, 5)) * scale)
        ours, plain = (pseudo_inverse(a, method=method, ridge=0.01, impl=impl) for impl in ("triton", "eager"))
        mine, theirs = (float(residual(a.double(), v.double(), 0.01).max()) for v in (ours, plain))
        assert mine <= 2.5 * theirs + 1e-6


def test_matrix_that_is_not_positive_is_nan_alone():
    a = gaussian_kernel(tokens(49, 16, torch.float32))
    a[0, 1, 4, 4] = -1
    v = pseudo_inverse(a, ridge=0.01, impl="triton")
    assert v[0, 1].isnan().all()
    assert int(v.isnan().sum()) == 49**2


@pytest.mark.parametrize("dtype", DTYPES)
def test_runs_are_alike_and_batches_do_not_matter(dtype):
    x, v = tokens(3000, 64, dtype), tokens(3000, 64, dtype, seed=2)
    k = x[:, :, :49]
    for call in (lambda x, k, v: gaussian_attention(x, k, v[:, :, :49], impl="triton"),
                 lambda x, k, v: gaussian_attention(k, x, v, impl="triton")):
        first = call(x, k, v)
        assert all(torch.equal(first, call(x, k, v)) for _ in range(5))
        assert torch.equal(first[1:], call(x[1:], k[1:], v[1:]))


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compile_keeps_the_operators_in_one_graph(backend):
    attention = _contract.load(AttentionSpec("soft"))
    shape = Shape(2, 2, 28, 28, 32)
    module = attention.build(shape, "triton").cuda()
    q, v = tokens(784, 32, torch.bfloat16, (2, 2)), tokens(784, 32, torch.bfloat16, (2, 2), seed=2)
    plain = module(q, q, v, grid=shape.grid)
    compiled = torch.compile(module, fullgraph=True, backend=backend)(q, q, v, grid=shape.grid)
    assert relative(compiled, plain) < 1e-2


@pytest.mark.parametrize("side", [112, 128])  # 7 windows divide the first grid and not the second
def test_memory_beyond_inputs_and_output_is_a_twentieth_of_the_inputs(side):
    attention = _contract.load(AttentionSpec("soft"))
    shape = Shape(16, 32, side, side, 64)
    module = attention.build(shape, attention.resolve("auto", "cuda", torch.bfloat16)).cuda()
    q, v = (torch.randn(16, 32, side * side, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    with torch.no_grad():
        module(q, q, v, grid=shape.grid)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y = module(q, q, v, grid=shape.grid)
        peak = torch.cuda.max_memory_allocated() - before - y.numel() * y.element_size()
    given = q.numel() * q.element_size() * 2
    assert peak <= 0.05 * given, f"{peak / given:.1%} of the inputs"


def test_auto_is_triton_here():
    for name in ("soft", "soft_norm", "gaussian"):
        attention = _contract.load(AttentionSpec(name))
        assert attention.resolve("auto", "cuda", torch.bfloat16) == "triton"
        assert attention.resolve("auto", "cuda", torch.float64) == "eager"
