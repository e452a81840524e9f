"""Autocast changes nothing in the operations and the attentions made of them: neither forward nor backward."""

from __future__ import annotations

import functools
from collections.abc import Callable

import helpers
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import softbench
from softbench.case import Shape
from softbench.ops.gaussian_attention import gaussian_attention, gaussian_kernel, landmark_attention
from softbench.ops.pseudo_inverse import pseudo_inverse

GRID = (7, 9)
CALLS: dict[str, Callable[[Tensor, str], Tensor]] = {
    "gaussian_attention": lambda x, impl: gaussian_attention(x, x, x, impl=impl),
    "gaussian_kernel": lambda x, impl: gaussian_kernel(x, impl=impl),
    "landmark_attention": lambda x, impl: landmark_attention(x, x[:, :, :5], x[:, :, :5, :5], x, impl=impl),
    "pseudo_inverse": lambda x, impl: pseudo_inverse(a=gaussian_kernel(x), ridge=0.01, impl=impl),
    "soft": lambda x, impl: helpers.load("soft").build(Shape(1, 2, *GRID, 8), impl)(x, x, x, grid=GRID),
    "soft, all landmarks": lambda x, impl: helpers.load("soft", landmarks=63).build(
        Shape(1, 2, *GRID, 8), impl)(x, x, x, grid=GRID),
    "gaussian": lambda x, impl: helpers.load("gaussian").build(Shape(1, 2, *GRID, 8), impl)(x, x, x, grid=GRID),
    **{f"{name} by the Python interface": functools.partial(lambda name, x, impl: softbench.create(name)(
        x, x, x, grid=GRID), name) for name in helpers.SEEING_ALL},
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
            within = _retained(y, x)
        results.append([y, *helpers.gradients(y, [x]), *within])
    for found, truth in zip(*results, strict=True):
        assert found.dtype == torch.float32
        assert torch.equal(found, truth)


def test_parameters_and_a_recomputed_forward_have_their_gradients_under_autocast() -> None:
    x, _, _ = helpers.inputs(Shape(1, 2, *GRID, 8), "structured", dtype=torch.float32)
    results = []
    for enabled, recompute in ((False, False), (True, False), (True, True)):
        torch.manual_seed(0)
        attention = softbench.create("luna")
        attention.prepare(Shape(1, 2, *GRID, 8), x)
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = checkpoint(attention, leaf, leaf, x, use_reentrant=False) if recompute else attention(leaf, leaf, x)
            y.square().sum().backward()
        results.append([leaf.grad, *(p.grad for p in attention.parameters())])
    for truth, *found in zip(*results, strict=True):
        assert truth is not None
        assert all(torch.equal(truth, one) for one in found)


def test_graph_of_its_own_goes_with_the_outer_one_and_has_no_second_derivative() -> None:
    x, _, _ = helpers.inputs(Shape(1, 2, *GRID, 8), "structured", dtype=torch.float32)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = softbench.create("softmax", impl="math")(x, x, x)
        with pytest.raises(RuntimeError, match="outside autocast"):
            torch.autograd.grad(y.sum(), x, create_graph=True)
        torch.autograd.grad(y.sum(), x)
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(y.sum(), x)


def _retained(y: Tensor, x: Tensor) -> list[Tensor]:
    """A gradient that leaves the graph for another."""
    return list(torch.autograd.grad(y, [x], torch.ones_like(y), retain_graph=True))
