"""Autocast changes nothing in the operations and the attentions made of them: neither forward nor backward."""

from __future__ import annotations

from collections.abc import Callable

import helpers
import pytest
import torch
from torch import Tensor

import softbench
from softbench.case import Shape
from softbench.ops.gaussian_attention import gaussian_attention, gaussian_kernel, landmark_attention
from softbench.ops.pseudo_inverse import pseudo_inverse

GRID = (7, 9)
OWN_BACKWARD = ("gaussian_attention", "gaussian_kernel", "landmark_attention", "pseudo_inverse")
CALLS: dict[str, Callable[[Tensor, str], Tensor]] = {
    "gaussian_attention": lambda x, impl: gaussian_attention(x, x, x, impl=impl),
    "gaussian_kernel": lambda x, impl: gaussian_kernel(x, impl=impl),
    "landmark_attention": lambda x, impl: landmark_attention(x, x[:, :, :5], x[:, :, :5, :5], x, impl=impl),
    "pseudo_inverse": lambda x, impl: pseudo_inverse(a=gaussian_kernel(x), ridge=0.01, impl=impl),
    "soft": lambda x, impl: helpers.load("soft").build(Shape(1, 2, *GRID, 8), impl)(x, x, x, grid=GRID),
    "soft, all landmarks": lambda x, impl: helpers.load("soft", landmarks=63).build(
        Shape(1, 2, *GRID, 8), impl)(x, x, x, grid=GRID),
    "gaussian": lambda x, impl: helpers.load("gaussian").build(Shape(1, 2, *GRID, 8), impl)(x, x, x, grid=GRID),
    "performer by the Python interface": lambda x, impl: softbench.create("performer")(x, x, x, grid=GRID),
}


@pytest.mark.parametrize("impl", ["eager", "reference"])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_rounded_by_autocast(name: str, impl: str) -> None:
    x, _, _ = helpers.inputs(Shape(1, 2, *GRID, 8), "structured", dtype=torch.float32)
    x.requires_grad_()
    results = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = CALLS[name](x, impl)
            within = _retained(y, x) if name in OWN_BACKWARD and impl == "eager" else []
        results.append([y, *helpers.gradients(y, [x]), *within])
    for found, truth in zip(*results, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, truth)


def _retained(y: Tensor, x: Tensor) -> list[Tensor]:
    """A gradient that leaves the graph for another."""
    return list(torch.autograd.grad(y, [x], torch.ones_like(y), retain_graph=True))
