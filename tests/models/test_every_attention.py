"""Every attention runs between the projections of the backbone, under autocast too, and trains all that is there."""

from __future__ import annotations

import helpers
import pytest
import torch

from softbench import models
from softbench.case import Shape
from softbench.errors import Unsupported
from softbench.models.blocks import ProjectedAttention


@pytest.mark.parametrize("grid", [(8, 8), (6, 9), (2, 2)])
@pytest.mark.parametrize("name", helpers.SEEING_ALL)
def test_runs_within_a_block(name: str, grid: tuple[int, int]) -> None:
    attention = helpers.load(name)
    if reason := attention.misfit(Shape(1, 3, *grid, 8)):
        assert grid != (8, 8), reason
        assert "\n" not in reason
        with pytest.raises(Unsupported, match="cannot run on"):
            ProjectedAttention(24, 3, attention, grid)
        return
    torch.manual_seed(0)
    block = ProjectedAttention(24, 3, attention, grid)
    x = torch.randn(2, grid[0] * grid[1], 24, requires_grad=True)
    y = block(x, grid)
    assert y.shape == x.shape
    leaves = [x, *block.parameters()]
    assert all(g.isfinite().all() for g in helpers.gradients(y, leaves))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = block(x, grid)
    assert helpers.relative(half, y) < 0.1
    assert all(g.isfinite().all() for g in helpers.gradients(half, leaves))


def test_reduction_follows_the_stage() -> None:
    """PVT's R: 8, 4 and 2, so that keys are as few in each stage."""
    model = models.create("spatial-reduction-tiny", img_size=64)
    sides = {block.attn.core.reduce.sr.stride[0]: stage for stage, blocks in enumerate(model.stages[:3])
             for block in blocks.blocks}
    assert sides == {8: 0, 4: 1, 2: 2}
