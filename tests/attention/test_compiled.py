"""torch.compile with inductor on the CPU gives what eager gives: all attentions, and the operations.

What follows in each graph scales the result, so that the buffers of the last operation are inductor's to write over.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence

import helpers
import pytest
import torch
from torch import Tensor

from softbench.case import Shape
from softbench.ops import pseudo_inverse
from softbench.ops.gaussian_attention import gaussian_kernel

SHAPE = Shape(2, 2, 8, 8, 8)
SUBJECTS: list[tuple[str, dict[str, object]]] = [
    *((name, {}) for name in helpers.SEEING_ALL if name != "spatial_reduction"),
    ("soft", {"sampling": "conv", "inverse": "newton", "conv": 3}),
    ("spatial_reduction", {"reduction": 2})]

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++ to compile for the CPU"),
    pytest.mark.xdist_group("inductor"),  # one compiler at a time
]


@pytest.fixture(autouse=True)
def _compiles_anew() -> Iterator[None]:
    """Nothing is taken from an earlier run, and what torch warns of while it compiles is no error."""
    from torch._inductor import config

    torch.compiler.reset()
    with config.patch(force_disable_caches=True, compile_threads=1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.compiler.reset()


def assert_compiled_agrees(call: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor],
                           parameters: Sequence[Tensor] = (), bound: float = 1e-3) -> None:
    """Values and gradients of the compiled call are those of the same call run eagerly.

    The inverse in SOFT makes some 1e-4 of rounding; a buffer that was written over is wrong by more than 1.
    """
    results = []
    for run in (torch.compile(call), call):
        leaves = [t.float().requires_grad_() for t in tensors]
        values = run(*leaves)
        total = torch.cat([y.flatten() for y in values])
        results.append([*values, *helpers.gradients(total, [*leaves, *parameters])])
    for i, (a, b) in enumerate(zip(*results, strict=True)):
        error = float((a.detach() - b.detach()).norm() / b.detach().norm().clamp_min(1e-3))
        assert error < bound, f"result {i}: {error:.2g} away"


@pytest.mark.parametrize(("name", "options"), SUBJECTS, ids=str)
def test_attention(name: str, options: dict[str, object]) -> None:
    module = helpers.build(helpers.load(name, **options), SHAPE).float().train()
    tensors = helpers.inputs(SHAPE, "structured")
    assert_compiled_agrees(lambda *t: [module(*t, grid=SHAPE.grid) * 2], tensors, list(module.parameters()))


def test_operations() -> None:
    """The m x m kernel of tokens with themselves, the scores with others, and inverses, as results of a graph."""
    x, k, _ = helpers.inputs(Shape(2, 2, 1, 9, 8), "structured")

    def operations(x: Tensor, k: Tensor) -> list[Tensor]:
        a = gaussian_kernel(x)
        inverses = [pseudo_inverse.pseudo_inverse(a, method=method, iterations=2, ridge=0.05)
                    for method in ("cholesky", "newton", "nystromformer")]
        return [2 * a, 2 * gaussian_kernel(x, k), *(2 * v for v in inverses)]

    assert_compiled_agrees(operations, (x, k))
