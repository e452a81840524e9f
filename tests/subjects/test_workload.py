"""Workloads: what one run is, and that a wrong result is seen before any number is taken."""

from __future__ import annotations

import helpers
import pytest
import torch

from softbench import subjects
from softbench.case import AttentionSpec, Case, Shape
from softbench.subjects import probe, workload

SHAPE = Shape(2, 3, 4, 5, 8)


def build(name: str = "softmax", options: dict | None = None, **keys) -> workload.Workload:
    spec = AttentionSpec(name, options or {})
    return workload.build(Case(spec, SHAPE, **keys), subjects.load(spec))


def test_forward_has_no_graph_and_gives_the_attention():
    built = build()
    output = built.run(built.prepare())
    assert not output.requires_grad
    expected = torch.nn.functional.scaled_dot_product_attention(*built.inputs)
    assert probe.relative_error(output, expected) < 1e-6


def test_backward_gives_the_gradients_of_forward_backward():
    backward, both = build(mode="backward"), build(mode="forward_backward")
    first = backward.run(backward.prepare())
    second = both.run(both.prepare())
    assert len(first) == len(second) == 3
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)
    assert both.prepare() is None


def test_gradients_are_those_of_the_cotangent():
    built = build(mode="backward", dtype="float64")
    q, k, v = (t.detach().clone().requires_grad_() for t in built.inputs)
    output = torch.softmax(q @ k.mT / 8**0.5, -1) @ v
    expected = torch.autograd.grad((output * built.target).sum(), (q, k, v))
    for a, b in zip(built.run(built.prepare()), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_tied_keys_are_one_leaf():
    built = build("soft", {"landmarks": 4}, mode="backward")
    assert len(built.inputs) == len(built.leaves) == 2


def test_parameters_are_leaves():
    built = build("linformer", {"projected": 4}, mode="backward")
    assert len(built.leaves) == 3 + len(list(built.module.parameters())) > 3


def test_same_seed_same_everything():
    one, two, other = build("linformer", seed=5), build("linformer", seed=5), build("linformer", seed=6)
    for a, b in zip(one.module.parameters(), two.module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(one.inputs[0], two.inputs[0])
    assert not torch.equal(one.inputs[0], other.inputs[0])
    assert any(not torch.equal(a, b) for a, b in zip(one.module.parameters(), other.module.parameters(), strict=True))


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    build("linformer")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", helpers.SEEING_ALL)
@pytest.mark.parametrize("family", ["normal", "image"])
def test_every_attention_passes_its_probe(name, dtype, family):
    spec = AttentionSpec(name)
    case = Case(spec, Shape(1, 2, 14, 14, 32), dtype=dtype, inputs=family)
    subject, small = subjects.load(spec).probed(case)
    probe.probe(small, subject)


def test_relative_error():
    truth = torch.tensor([3.0, 4.0])
    assert probe.relative_error(truth * 1.1, truth) == pytest.approx(0.1, rel=1e-5)
    assert probe.relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert probe.relative_error(torch.ones(2), torch.zeros(2)) == pytest.approx(2**0.5)
