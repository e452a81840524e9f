"""The cost of whole models by formula: equal to torch's counter, operation for operation, and to what was published."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from softbench import models
from softbench.errors import UsageError
from softbench.measures.flops import counters
from softbench.models import paper
from softbench.models.cost import ModelCost, cost

NEWTON = {"inverse": "newton"}


def made(arch: str, **options: Any) -> models.Pyramid:
    with torch.device("meta"):
        model = models.create(arch, **options)
    assert isinstance(model, models.Pyramid)
    return model.eval()


def by_torch(model: models.Pyramid, rows: int, cols: int, batch: int = 1) -> float:
    """What torch's FlopCounterMode counts, together with the few operators that softbench tells it about."""
    return counters.by_torch(model, (torch.empty(batch, model.in_chans, rows, cols, device="meta"),)).flops


@pytest.mark.parametrize(("arch", "options"), [
    ("soft-tiny", NEWTON), ("soft-tiny", {"inverse": "cholesky"}),
    ("soft-tiny", NEWTON | {"sampling": "avg", "landmarks": 64, "iterations": 7}),
    ("soft-norm-tiny", NEWTON | {"sampling": "random"}), ("soft-small", NEWTON), ("soft-huge", NEWTON),
    ("softmax-tiny", {}), ("gaussian-medium", {}), ("linformer-tiny", {}), ("performer-tiny", {"features": 100}),
    ("nystromformer-tiny", {"conv": 5})])
def test_cost_is_what_torch_counts(arch: str, options: dict[str, Any]) -> None:
    model = made(arch, attn_options=options)
    assert cost(model).flops == by_torch(model, 224, 224)


@pytest.mark.parametrize(("rows", "cols", "batch"), [(224, 224, 3), (97, 130, 2), (384, 224, 1), (33, 4, 1)])
def test_cost_at_any_image_and_batch(rows: int, cols: int, batch: int) -> None:
    model = made("soft-tiny", attn_options=NEWTON)
    assert cost(model, (rows, cols), batch).flops == by_torch(model, rows, cols, batch)


@pytest.mark.parametrize("options", [
    {"num_classes": 10}, {"num_classes": 0}, {"in_chans": 1}, {"mlp_ratios": (8.0, 8.0, 4.0, 2.0)},
    {"global_pool": "avg", "class_token": False}, {"img_size": 96}])
def test_cost_of_models_made_otherwise(options: dict[str, Any]) -> None:
    model = made("soft-tiny", attn_options=NEWTON, **options)
    side = options.get("img_size", 224)
    assert cost(model).flops == by_torch(model, side, side)


def test_cost_of_fewer_stages() -> None:
    model = made("soft-tiny", attn_options=NEWTON)
    model.prune_intermediate_layers([0, 1])

    class Kept(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return model.forward_intermediates(image, stop_early=True)[0]

    counted = counters.by_torch(Kept(), (torch.empty(1, 3, 224, 224, device="meta"),))
    assert cost(model).flops == counted.flops


def test_cost_of_an_arch_is_that_of_its_model() -> None:
    assert cost("soft-tiny", 128) == cost(made("soft-tiny", img_size=128))
    with pytest.raises(UsageError, match="Did you mean 'soft-tiny'"):
        cost("soft-tny")
    with pytest.raises(UsageError, match="timm's own"):
        cost("timm:resnet18")


@pytest.mark.parametrize(("arch", "gmac"), [
    ("soft-tiny", 1.877), ("soft-small", 3.263), ("soft-medium", 7.192), ("soft-large", 10.956), ("soft-huge", 15.641)])
def test_the_papers_way_of_counting(arch: str, gmac: float) -> None:
    """All as printed but huge: 1.9, 3.3, 7.2, 11.0, and 16.3 G."""
    total = cost(arch)
    assert round(total.published / 2e9, 3) == gmac
    printed = next(n.printed for row in paper.TABLES["variants"] if row.arch == arch for n in row.numbers
                   if n.quantity == "flops")
    assert (f"{gmac:.1f}G" == printed) is (arch != "soft-huge")
    assert cost(made(arch, attn_options=NEWTON | {"sampling": "avg"})).published == total.published


def test_twenty_newton_steps_of_the_official_models() -> None:
    """As measured on the official code: 2 x 20 x 49^3 multiply-adds for each head of stages 1 to 3."""
    for arch, gmac in (("soft-tiny", 0.188), ("soft-small-d20", 1.007), ("soft-medium", 1.294), ("soft-huge", 2.640)):
        model = made(arch, official=True)
        assert round(cost(model).by_name()["inverse"] / 2e9, 3) == gmac


def test_parts_add_up() -> None:
    total = cost(made("soft-tiny", attn_options=NEWTON), batch=2)
    assert sum(total.by_name().values()) == pytest.approx(total.flops)
    assert sum(total.by_stage().values()) == pytest.approx(total.flops)
    assert set(total.by_stage()) == {0, 1, 2, 3, 4}
    assert total.by_stage()[0] == 2 * 2 * 512 * 1000
    left_out = sum(total.by_name()[name] for name in ("landmarks", "distances", "inverse"))
    assert total.published == pytest.approx(total.flops - left_out)
    assert isinstance(total, ModelCost)
