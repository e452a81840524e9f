"""Attentions on a GPU: each against its plainest implementation in float64 on the CPU, outputs and gradients.

These files import nothing but softbench, torch and pytest, so that `make gpu` runs where test dependencies are absent.
"""

from __future__ import annotations

import helpers
import pytest
import torch

from softbench import subjects
from softbench.case import AttentionSpec, Case, Shape
from softbench.subjects import probe, workload

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("grid", [(14, 14), (7, 9), (1, 197), (56, 56)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", helpers.SEEING_ALL)
def test_output_is_that_of_float64(name, dtype, grid):
    spec = AttentionSpec(name)
    attention = subjects.load(spec)
    for family in ("normal", "structured"):
        probe.probe(Case(spec, Shape(2, 2, *grid, 32), dtype=dtype, device="cuda", inputs=family), attention)


@pytest.mark.parametrize("name", helpers.SEEING_ALL)
def test_gradients_are_those_of_the_cpu(name):
    spec = AttentionSpec(name)
    attention = subjects.load(spec)
    case = Case(spec, Shape(2, 2, 14, 14, 32), dtype="float64", mode="forward_backward")
    here = workload.build(case, attention)
    there = workload.build(Case(**{**vars(case), "device": "cuda"}), attention)
    for mine, theirs in zip(here.run(None), there.run(None), strict=True):
        assert probe.relative_error(theirs, mine) < 1e-9


@pytest.mark.parametrize("name", helpers.SEEING_ALL)
def test_memory_poisoned_with_nan_is_not_read(name):
    """Freed blocks full of NaN are handed out again; no result may depend on what they held."""
    spec = AttentionSpec(name)
    built = workload.build(Case(spec, Shape(1, 2, 14, 14, 32), device="cuda", mode="forward_backward"),
                           subjects.load(spec))
    clean = [g.clone() for g in built.run(None)]
    poison = [torch.full((1 << n,), torch.nan, device="cuda") for n in range(8, 24)]
    del poison
    for first, second in zip(clean, built.run(None), strict=True):
        assert probe.relative_error(second, first) < 1e-4
