"""What every attention must keep, as functions that raise AssertionError: for the built-in files and for your own.

Each check takes a loaded attention and the name of one implementation. `CHECKS` names them all.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import helpers
import torch
from torch import Tensor

from softbench import options as opts
from softbench.case import Shape
from softbench.contracts.attention import Attention
from softbench.errors import UsageError
from softbench.measures.flops.counters import by_torch

GRIDS = [(8, 8), (14, 14), (7, 9), (1, 60), (13, 1), (2, 3), (1, 1)]
SMALL = Shape(2, 2, 7, 9, 8)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-3, torch.float16: 2e-2, torch.bfloat16: 8e-2}


def shapes(attention: Attention, impl: str) -> None:
    """Any grid that fits and any dim of v, also fewer tokens than landmarks; outputs are finite, of the dtype of v."""
    for rows, cols in GRIDS:
        shape = Shape(2, 3, rows, cols, 8)
        if reason := attention.misfit(shape):
            assert rows * cols < 64, f"{rows}x{cols} does not fit: {reason}"
            continue
        module = helpers.build(attention, shape, impl)
        for value_dim in (8,) if _same_dim(attention) else (5, 11):
            q, k, v = _inputs(attention, shape, value_dim=value_dim)
            y = module(q, k, v, grid=shape.grid)
            assert y.shape == v.shape, f"{rows}x{cols}: {list(y.shape)} for v {list(v.shape)}"
            assert y.dtype == v.dtype, f"{y.dtype} for v {v.dtype}"
            assert y.isfinite().all(), f"{rows}x{cols}: not finite"


def precision(attention: Attention, impl: str) -> None:
    """Every dtype, also at large norms: finite, not all zeros, near to float64 of the same rounded numbers."""
    shape = Shape(1, 2, 16, 16, 16)
    for dtype, bound in TOLERANCE.items():
        module = helpers.build(attention, shape, impl).to(dtype)
        exact = copy.deepcopy(module).double()
        for kind, scale in (("iid", 1.0), ("structured", 1.0), ("structured", 5.0)):
            q, _, v = _inputs(attention, shape, kind=kind, scale=scale, dtype=dtype)
            y = module(q, q, v, grid=shape.grid)  # q for k: tokens near to some key, at any norm
            what = f"{dtype}, {kind} x{scale:g}"
            assert y.dtype == dtype, what
            assert y.isfinite().all(), f"{what}: not finite"
            assert y.count_nonzero() > 0, f"{what}: all zeros"
            error = helpers.relative(y, exact(q.double(), q.double(), v.double(), grid=shape.grid))
            assert error < bound, f"{what}: {error:.2g} from float64"


def batch_invariance(attention: Attention, impl: str) -> None:
    """A sample's output and gradients are those it has alone, next to huge, zero and constant mates."""
    alone = Shape(1, 2, 7, 9, 8)
    q, k, v = _inputs(attention, alone, kind="structured")
    others = [(30 * q, 30 * k, 1e3 * v), (0 * q, 0 * k, 0 * v), (0 * q + 3, 0 * k + 3, 0 * v + 1)]
    together = [torch.cat(parts) for parts in zip(*others[:1], (q, k, v), *others[1:], strict=True)]
    y = _with_gradients(attention, alone, impl, [q, k, v])
    mates = _with_gradients(attention, Shape(4, 2, 7, 9, 8), impl, together, cotangent_of=1)
    for name, single, batched in zip(("output", "dq", "dk", "dv"), y, mates, strict=True):
        _assert_near(batched[1:2], single, 1e-9, f"{name} in a batch")


def gradients(attention: Attention, impl: str) -> None:
    """Gradients are those of finite differences, and those of the plainest implementation."""
    shape = Shape(1, 2, 2, 3, 3)
    leaves = [t.requires_grad_() for t in _inputs(attention, shape, scale=2.0, value_dim=2)]
    module = helpers.build(attention, shape, impl)

    def call(q: Tensor, v: Tensor, k: Tensor | None = None) -> Tensor:
        return module(q, q if k is None else k, v, grid=shape.grid)

    q, k, v = leaves
    torch.autograd.gradcheck(call, (q, v) if attention.module.SHARES_QK else (q, v, k))
    for kind in ("iid", "structured"):
        tensors = list(_inputs(attention, SMALL, kind=kind))
        ours = _with_gradients(attention, SMALL, impl, tensors)
        plain = _with_gradients(attention, SMALL, attention.module.IMPLS[-1], tensors)
        for name, a, b in zip(("output", "dq", "dk", "dv"), ours, plain, strict=True):
            _assert_near(a, b, 1e-7, f"{name} against {attention.module.IMPLS[-1]}")


def further_derivatives(attention: Attention, impl: str) -> None:
    """Second derivatives, and derivatives forwards, are those of finite differences or refused: never wrong."""
    shape, step = Shape(1, 2, 2, 3, 3), 1e-5
    module = helpers.build(attention, shape, impl)
    q, k, v = _inputs(attention, shape, kind="structured")
    leaves = (q, v) if attention.module.SHARES_QK else (q, k, v)
    generator = torch.Generator().manual_seed(0)
    ways = [torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in leaves]

    def call(*tensors: Tensor) -> Tensor:
        return module(tensors[0], tensors[-2], tensors[-1], grid=shape.grid)

    def gradient(*tensors: Tensor, further: bool = False) -> list[Tensor]:
        at = [t if t.requires_grad else t.clone().requires_grad_() for t in tensors]
        loss = call(*at).sin().sum()
        found = torch.autograd.grad(loss, at, create_graph=further, allow_unused=True)
        return [torch.zeros_like(t) if g is None else g for g, t in zip(found, at, strict=True)]

    def backwards() -> list[Tensor]:
        at = [t.clone().requires_grad_() for t in leaves]
        slope = sum((g * way).sum() for g, way in zip(gradient(*at, further=True), ways, strict=True))
        found = torch.autograd.grad(slope, at, allow_unused=True)
        return [torch.zeros_like(t) if g is None else g for g, t in zip(found, at, strict=True)]

    def differences(function: Callable[..., list[Tensor]]) -> list[Tensor]:
        high, low = (function(*(t + by * way for t, way in zip(leaves, ways, strict=True))) for by in (step, -step))
        return [(a - b) / (2 * step) for a, b in zip(high, low, strict=True)]

    _right_or_refused(backwards, differences(gradient), "second derivative")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script`", FutureWarning)  # torch's own call, at the first jvp
        _right_or_refused(lambda: [torch.func.jvp(call, leaves, tuple(ways))[1]], differences(lambda *t: [call(*t)]),
                          "derivative forwards")


def poisoned_memory(attention: Attention, impl: str) -> None:
    """New memory filled with NaN changes nothing: no entry is read before it is written."""
    tensors = list(_inputs(attention, SMALL, kind="structured"))
    clean = _with_gradients(attention, SMALL, impl, tensors)
    with _poisoned():
        dirty = _with_gradients(attention, SMALL, impl, tensors)
    for name, a, b in zip(("output", "dq", "dk", "dv"), dirty, clean, strict=True):
        _assert_near(a, b, 1e-12, f"{name} on poisoned memory")


def layouts(attention: Attention, impl: str) -> None:
    """Strided inputs give what contiguous ones give, and inputs are not written to."""
    module = helpers.build(attention, SMALL, impl)
    q, k, v = _inputs(attention, SMALL)
    truth = module(q.clone(), k.clone(), v.clone(), grid=SMALL.grid)
    by_token = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)]
    by_channel = [t.mT.contiguous().mT for t in (q, k, v)]
    sliced = [torch.stack([t, torch.full_like(t, torch.nan)], -1)[..., 0] for t in (q, k, v)]
    for strided in (by_token, by_channel, sliced):
        before = [t.clone() for t in strided]
        _assert_near(module(*strided, grid=SMALL.grid), truth, 1e-12, f"strides {strided[0].stride()}")
        for name, now, then in zip("qkv", strided, before, strict=True):
            assert torch.equal(now, then), f"{name} was written to"


def empty_batch(attention: Attention, impl: str) -> None:
    """A batch of no samples gives an output of none, and gradients."""
    for dtype in (torch.float64, torch.float16):
        module = helpers.build(attention, SMALL, impl).to(dtype)
        q, k, v = (t[:0].requires_grad_() for t in helpers.inputs(SMALL, dtype=dtype))
        y = module(q, k, v, grid=SMALL.grid)
        assert y.shape == v.shape, f"{list(y.shape)} for v {list(v.shape)}"
        assert all(g.shape == t.shape for g, t in zip(helpers.gradients(y, [q, k, v]), (q, k, v), strict=True))


def wrong_inputs(attention: Attention, impl: str) -> None:
    """What no attention can take is told in one line; other heads than it was built for are served rightly, or told."""
    module, (q, k, v), grid = helpers.build(attention, SMALL, impl), helpers.inputs(SMALL), SMALL.grid
    wrong = {
        "one dtype": [(q, k.half(), v, grid), (q.float(), k, v, grid), (q, k, v.bfloat16(), grid)],
        "one device": [(q, k.to("meta"), v, grid)],
        "floating-point": [(q.int(), k.int(), v.int(), grid), (q[:, :, :0], k[:, :, :0], v[:, :, :0], (0, 0)),
                           (q[:, :0], k[:, :0], v[:, :0], grid)],
        "disagree": [(q, k[:, :, :-1], v[:, :, :-1], grid), (q, k, v[:, :, :-1], grid), (q, k[:1], v, grid)],
        "must be": [(q[0], k[0], v[0], grid), (q.numpy(), k, v, grid), (q, None, v, grid), (q, k, v, (7.0, 9.0)),
                    (q, k, v, (63,))],
        "does not hold": [(q, k, v, (8, 8)), (q, k, v, (-7, -9))],
    }
    for message, calls in wrong.items():
        for call in calls:
            said = _refusal(module, call)
            assert message in said, f"{message} is not in {said!r}"
            assert "\n" not in said, said
    for built, called in ((1, 8), (2, 8)), ((4, 8), (2, 8)), ((2, 4), (2, 8)), ((2, 8), (2, 6)):
        shapes = [Shape(2, heads, *grid, head_dim) for heads, head_dim in (built, called)]
        tensors = _inputs(attention, shapes[1])
        module, fresh = (helpers.build(attention, shape, impl) for shape in shapes)
        if said := _refusal(module, (*tensors, grid)):
            assert "was built for" in said, said
        else:
            _assert_near(module(*tensors, grid), fresh(*tensors, grid), 1e-12, f"{called} where {built} was built")


def linearity(attention: Attention, impl: str) -> None:
    """Where LINEAR_IN_V: attn(q, k, I) is the attention's own matrix."""
    if not attention.module.LINEAR_IN_V:
        return
    q, k, v = _inputs(attention, SMALL, kind="structured")
    module = helpers.build(attention, SMALL, impl)
    identity = torch.eye(SMALL.tokens, dtype=v.dtype).expand(*v.shape[:2], -1, -1)
    matrix = module(q, k, identity, grid=SMALL.grid)  # [B, H, N, N]
    _assert_near(matrix @ v, module(q, k, v, grid=SMALL.grid), 1e-9, "attn(q, k, I) v")


def shared_keys(attention: Attention, impl: str) -> None:
    """k is not used where SHARES_QK, and is used where not."""
    module = helpers.build(attention, SMALL, impl)
    q, k, v = helpers.inputs(SMALL, "structured")
    tied, free = module(q, q, v, grid=SMALL.grid), module(q, k, v, grid=SMALL.grid)
    assert torch.equal(tied, free) == attention.module.SHARES_QK, "SHARES_QK does not say what k does"


def determinism(attention: Attention, impl: str) -> None:
    """Two calls agree, and neither draws a random number; two modules of one seed agree."""
    q, k, v = _inputs(attention, SMALL)
    first, second = helpers.build(attention, SMALL, impl), helpers.build(attention, SMALL, impl)
    state = torch.random.get_rng_state()
    ys = [module(q, k, v, grid=SMALL.grid) for module in (first, first, second)]
    assert torch.equal(torch.random.get_rng_state(), state), "a call drew random numbers"
    assert torch.equal(ys[0], ys[1]), "two calls differ"
    assert torch.equal(ys[0], ys[2]), "two modules of one seed differ"


def state(attention: Attention, impl: str) -> None:
    """All draws that decide the result are in the state_dict: a module with others gives the same once it has it."""
    shape = Shape(1, 2, 30, 30, 8)
    seeds = [{"seed": seed} if hasattr(attention.options, "seed") else {} for seed in (3, 4)]
    ours, other = (helpers.build(dataclasses.replace(attention, options=dataclasses.replace(attention.options, **one)),
                                 shape, impl, seed=i) for i, one in enumerate(seeds))
    other.load_state_dict(ours.state_dict())
    for rows, cols in ((30, 30), (28, 32)):
        call = *_inputs(attention, Shape(1, 2, rows, cols, 8), kind="structured"), (rows, cols)
        if said := _refusal(ours, call):
            assert "was built for" in said, said
        else:
            assert torch.equal(ours(*call), other(*call)), f"another result on {rows}x{cols} tokens"


def cost(attention: Attention, impl: str) -> None:
    """The FLOPs of the first implementation that a CPU can run are what torch counts, within 1 %, at several shapes."""
    if impl != attention.resolve("auto", "cpu", torch.float64):
        return
    for rows, cols, head_dim in ((7, 9, 8), (14, 14, 32), (1, 1, 4), (64, 48, 16)):
        shape = Shape(2, 3, rows, cols, head_dim)
        said, counted = attention.cost(shape), counted_flops(attention, shape, impl)
        assert math.isclose(said.flops, counted, rel_tol=0.01), f"{shape}: cost() says {said.flops}, torch {counted}"
        assert math.isfinite(said.elements), f"{shape}: elements {said.elements}"
        assert said.elements > 0, f"{shape}: elements {said.elements}"


def options(attention: Attention, impl: str) -> None:
    """Options print and parse: every default is a valid value."""
    written = {key: str(value) for key, value in opts.to_dict(attention.options).items()}
    assert opts.parse(attention.module.Options, written, attention.name) == attention.options
    assert all(help for *_, help in opts.describe(attention.module.Options)), "an option has no help"


def size(attention: Attention, impl: str) -> None:
    """The option that is m is marked: where a whole number decides the rank, it is that one."""
    if not hasattr(attention.module, "rank"):
        return
    shape = Shape(1, 2, 16, 16, 64)
    for field in dataclasses.fields(attention.options):
        ranks = set()
        for value in (2, 3, 5) if type(field.default) is int else ():
            with contextlib.suppress(UsageError):
                ranks.add(attention.module.rank(shape, dataclasses.replace(attention.options, **{field.name: value})))
        decides = len(ranks) > 1
        assert decides == (field.name == attention.size_option), f"{field.name} decides the rank: {decides}"


def device(attention: Attention, impl: str, where: str) -> None:
    """On another device: values in every dtype are near to the CPU's float64, gradients in float64 are the same."""
    shape = Shape(2, 2, 9, 17, 32)
    truth = _with_gradients(attention, shape, impl, list(_inputs(attention, shape, kind="structured")))
    moved = [t.to(where) for t in _inputs(attention, shape, kind="structured")]
    there = _with_gradients(attention, shape, impl, moved)
    for name, a, b in zip(("output", "dq", "dk", "dv"), there, truth, strict=True):
        _assert_near(a.cpu(), b, 1e-8, f"{name} on {where}")
    for dtype, bound in TOLERANCE.items():
        rounded = [t.to(dtype) for t in moved]
        module = helpers.build(attention, shape, impl).to(where).to(dtype)
        exact = copy.deepcopy(module).cpu().double()(*(t.cpu().double() for t in rounded), grid=shape.grid)
        _assert_near(module(*rounded, grid=shape.grid).cpu().double(), exact, max(bound, 1e-8), f"{dtype} on {where}")


CHECKS = {check.__name__: check for check in (shapes, precision, batch_invariance, gradients, further_derivatives,
                                              poisoned_memory, layouts, empty_batch, wrong_inputs, linearity,
                                              shared_keys, determinism, state, cost, options,
                                              size)}
VARY_WITH_OPTIONS = ("shapes", "precision", "batch_invariance", "gradients", "further_derivatives", "layouts",
                     "empty_batch", "wrong_inputs", "linearity", "state", "cost")


def counted_flops(attention: Attention, shape: Shape, impl: str) -> float:
    """What torch's counter, with formulas for the factorisations that it lacks, sees in one forward on meta tensors."""
    module = helpers.build(attention, shape, impl).to("meta")
    q = torch.empty(shape.batch, shape.heads, shape.tokens, shape.head_dim, dtype=torch.float64, device="meta")
    return by_torch(functools.partial(module, grid=shape.grid), (q, q, q)).flops  # type: ignore[arg-type]


def _same_dim(attention: Attention) -> bool:
    return getattr(attention.module, "SAME_DIM", False)


def _inputs(attention: Attention, shape: Shape, **kind: object) -> helpers.Inputs:
    if _same_dim(attention):
        kind["value_dim"] = shape.head_dim
    q, k, v = helpers.inputs(shape, **kind)  # type: ignore[arg-type]
    return (q, q, v) if attention.module.SHARES_QK else (q, k, v)


def _with_gradients(attention: Attention, shape: Shape, impl: str, tensors: list[Tensor],
                    cotangent_of: int | None = None) -> list[Tensor]:
    """The output and its gradients by q, k, v; with `cotangent_of`, of that sample's output only."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    q, k, v = leaves
    module = helpers.build(attention, shape, impl).to(q.device)
    y = module(q, q if attention.module.SHARES_QK else k, v, grid=shape.grid)
    seen = y if cotangent_of is None else y[cotangent_of:cotangent_of + 1]
    return [y.detach(), *helpers.gradients(seen, leaves)]


def _refusal(module: torch.nn.Module, call: tuple[object, ...]) -> str:
    try:
        module(*call)
    except UsageError as error:
        return str(error)
    return ""


def _right_or_refused(derive: Callable[[], list[Tensor]], truths: list[Tensor], what: str) -> None:
    try:
        derived = derive()
    except RuntimeError as error:
        if any(word in str(error) for word in ("derivative", "forward AD", "autograd.Function")):
            return
        raise
    for a, b in zip(derived, truths, strict=True):
        _assert_near(a, b, 1e-5, what)


def _assert_near(result: Tensor, truth: Tensor, bound: float, what: str) -> None:
    assert result.isfinite().all(), f"{what}: not finite"
    error = helpers.relative(result, truth) if truth.any() else float(result.detach().norm())
    assert error <= bound, f"{what}: {error:.2g} away"


@contextmanager
def _poisoned() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]
