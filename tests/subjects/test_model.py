"""Whole models and their stages as subjects: what is built and run, what is trusted, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from softbench import models, parsing, subjects
from softbench.case import Case, ModelSpec, Shape
from softbench.errors import Unsupported, UsageError
from softbench.subjects import model as backbones
from softbench.subjects import probe, workload
from softbench.subjects.model import Backbone, OwnModel, TimmModel
from softbench.subjects.workload import WrongResult

SMALL = Shape(2, 0, 32, 40, 0)


def case_of(text: str, shape: Shape = SMALL, **keys: object) -> Case:
    (spec,) = parsing.models(text)
    return Case(spec, shape, **keys)  # type: ignore[arg-type]


def load(text: str) -> Backbone:
    subject = subjects.load(parsing.models(text)[0])
    assert isinstance(subject, Backbone)
    return subject


def built(text: str, part: str = "whole", **keys: object) -> workload.Workload:
    subject = load(text) if part == "whole" else load(text).part(part)
    return workload.build(replace(case_of(text, **keys), spec=subject.spec), subject)


def test_forward_is_the_models_own_in_evaluation_mode() -> None:
    made = built("timm:resnet18", seed=5)
    torch.manual_seed(5)
    twin = models.create("timm:resnet18").eval()
    (images,) = made.inputs
    assert images.shape == (2, 3, 32, 40)
    with torch.no_grad():
        torch.testing.assert_close(made.run(made.prepare()), twin(images))
    assert not made.run(None).requires_grad


def test_a_training_step_gives_the_gradients_of_the_cross_entropy_by_all_parameters() -> None:
    made = built("timm:resnet18", mode="forward_backward", dtype="float64")
    assert made.module.training
    assert made.sources == []  # a training step does not differentiate by its images
    labels = made.target
    assert labels.shape == (2,)
    assert len(set(built("timm:resnet18", shape=Shape(16, 0, 32, 32, 0), mode="backward").target.tolist())) > 1
    nn.functional.cross_entropy(made.module(*made.inputs), labels).backward()
    gradients = made.run(made.prepare())
    parameters = list(made.module.parameters())
    assert len(gradients) == len(parameters)
    for gradient, parameter in zip(gradients, parameters, strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_modes_agree() -> None:
    backward, both = (built("soft-tiny", mode=mode, dtype="float64") for mode in ("backward", "forward_backward"))
    for one, other in zip(backward.run(backward.prepare()), both.run(both.prepare()), strict=True):
        torch.testing.assert_close(one, other)


def test_same_seed_same_model_and_images() -> None:
    one, two, other = built("soft-tiny", seed=1), built("soft-tiny", seed=1), built("soft-tiny", seed=2)
    assert torch.equal(one.run(None), two.run(None))
    assert not torch.equal(one.inputs[0], other.inputs[0])
    assert not torch.equal(next(one.module.parameters()), next(other.module.parameters()))


@pytest.mark.parametrize("text", ["soft-tiny", "timm:resnet18", "timm:pvt_v2_b0"])
def test_stages_chained_are_the_whole(text: str) -> None:
    """What one stage gives is what the next one gets; the stage alone computes what it does inside the model."""
    whole = load(text)
    stages = whole.parts()
    assert [stage.spec.part for stage in stages] == ["stage1", "stage2", "stage3", "stage4"]
    seen: list[torch.Tensor] = []
    made = built(text, dtype="float64")
    for stage in stages:
        made.module.get_submodule(stage.path).register_forward_hook(lambda *found: seen.append(found[2]))
    made.run(None)
    for stage, inside in zip(stages, seen, strict=True):
        alone = workload.build(replace(case_of(text, dtype="float64"), spec=stage.spec), stage)
        alone.check()
        inside = inside[0] if isinstance(inside, tuple) else inside
        torch.testing.assert_close(alone.run(None), inside)
        assert sum(p.numel() for p in alone.module.parameters()) < sum(p.numel() for p in made.module.parameters())


def test_stages_differentiate_by_what_has_a_gradient_in_training() -> None:
    first, second = (built("soft-tiny", part, mode="forward_backward") for part in ("stage1", "stage2"))
    assert first.sources == []  # images
    assert len(second.sources) == 1
    assert len(second.run(None)) == 1 + len(list(second.module.parameters()))
    second.check()


@pytest.mark.parametrize(("name", "names"), [
    ("resnet18", {"stage1": "layer1", "stage4": "layer4"}), ("pvt_v2_b0", {"stage1": "stages.0", "stage4": "stages.3"}),
    ("efficientnet_b0", {"stage1": "blocks.0", "stage7": "blocks.6"}),
    ("vit_tiny_patch16_224", {"block1": "blocks.0", "block12": "blocks.11"}),
])
def test_stages_of_timm_are_found(name: str, names: dict[str, str]) -> None:
    found = {part.spec.part: part.path for part in load(f"timm:{name}").parts()}
    assert {**found, **names} == found
    assert [*found][::len(found) - 1] == list(names)


def test_no_stage_of_that_name() -> None:
    with pytest.raises(UsageError, match="soft-tiny has no stage 'stage5'"):
        subjects.load(ModelSpec("soft-tiny", part="stage5"))


def test_a_stage_that_is_not_called_once_is_unsupported() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stage(self.stage(x))

    model = Twice()
    with pytest.raises(Unsupported, match="stage is called 2 times"):
        backbones._catch(model, model.stage, case_of("soft-tiny"), "stage")


def test_options_reach_the_model() -> None:
    assert built("soft-tiny:landmarks=16").module.stages[0].blocks[0].attn.attention.options.landmarks == 16
    assert len(built("timm:vit_tiny_patch16_224:depth=2").module.blocks) == 2
    subject = load("timm:resnet18:zero_init_last=false:act_layer=gelu:drop_rate=0.5")
    assert subject.options == {"zero_init_last": False, "act_layer": "gelu", "drop_rate": 0.5}


def test_what_records_say_of_a_model() -> None:
    own, peer = load("soft-tiny:landmarks=16"), load("timm:resnet18")
    assert isinstance(own, OwnModel)
    assert isinstance(peer, TimmModel)
    assert (own.model, own.attention, own.options, own.coords) == (
        "soft-tiny", "soft", {"landmarks": 16}, {"part": "whole"})
    assert (peer.model, peer.attention, peer.options) == ("timm:resnet18", "", {})
    assert own.resolve("auto", "cpu", torch.float32) in own.impls
    assert peer.resolve("auto", "cpu", torch.float32) == ""
    assert own.part("stage2").coords == {"part": "stage2"}


@pytest.mark.parametrize(("text", "message"), [
    ("timm:resnet1", "timm has no model named 'resnet1'. Did you mean 'timm:resnet18'"),
    ("timm:resnet18:pretrained=true", "cannot be given 'pretrained': weights are always fresh"),
    ("timm:resnet18:img_size=3", "cannot be given 'img_size': --image sets it"),
    ("timm:resnet18:foo=1", "does not take these arguments: .*'foo'"),
    ("soft-tiney", "No arch named 'soft-tiney'. Did you mean 'soft-tiny'"),
    ("soft-tiny:landmark=4", "Did you mean 'landmarks'"), ("soft-tiny:landmarks=many", "whole number"),
])
def test_bad_models_are_refused_before_anything_runs(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(text).check(case_of(text))


def test_images_that_no_own_model_takes_are_refused_and_those_of_timm_become_rows() -> None:
    with pytest.raises(UsageError, match="smaller than a patch"):
        load("soft-tiny").check(case_of("soft-tiny", Shape(1, 0, 3, 32, 0)))
    load("timm:inception_v3").check(case_of("timm:inception_v3"))


def test_a_model_of_one_size_is_built_for_the_image() -> None:
    assert built("timm:vit_tiny_patch16_224", shape=Shape(1, 0, 32, 48, 0)).run(None).shape == (1, 1000)
    assert built("timm:resnet18", shape=Shape(1, 0, 32, 48, 0)).run(None).shape == (1, 1000)


@pytest.mark.parametrize("text", ["soft-tiny", "performer-tiny", "timm:resnet18"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_models_pass_their_probe(text: str, dtype: str) -> None:
    subject, small = load(text).probed(case_of(text, dtype=dtype, mode="forward_backward"))
    probe.probe(small, subject)


def test_the_probe_is_small_and_stages_share_it() -> None:
    case = case_of("soft-tiny", Shape(32, 0, 512, 384, 0))
    whole = load("soft-tiny")
    subject, small = whole.probed(case)
    assert (small.shape, small.spec.name) == (Shape(2, 0, 224, 224, 0), "soft-tiny")
    part = whole.part("stage3")
    assert part.probed(replace(case, spec=part.spec)) == (subject, small)
    assert whole.probed(case_of("soft-tiny"))[1].shape == SMALL


def test_the_probe_sees_a_model_that_is_wrong_in_its_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    create = TimmModel.create

    def off(self: TimmModel, image: tuple[int, int], impl: str) -> nn.Module:
        model = create(self, image, impl)
        model.fc.register_forward_hook(lambda _, __, y: y * (1.1 if y.dtype == torch.float32 else 1.0))
        return model

    monkeypatch.setattr(TimmModel, "create", off)
    with pytest.raises(WrongResult, match=r"the output is 10.0% away from the same in float64"):
        probe.probe(case_of("timm:resnet18"), load("timm:resnet18"))
    probe.probe(case_of("timm:resnet18", dtype="float64"), load("timm:resnet18"))


def test_a_gradient_of_zero_by_construction_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias before a batch norm in training has gradient zero, of which float32 leaves rounding noise."""
    class Net(nn.Sequential):
        num_classes = 4

    def create(self: TimmModel, image: tuple[int, int], impl: str) -> nn.Module:
        return Net(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    monkeypatch.setattr(TimmModel, "create", create)
    monkeypatch.setattr(TimmModel, "draws", False)  # so that the batch norm is in training
    probe.probe(case_of("timm:resnet18", mode="forward_backward"), load("timm:resnet18"))


def test_more_than_one_output_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pair(nn.Module):
        num_classes = 2

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    monkeypatch.setattr(TimmModel, "create", lambda *_: Pair())
    with pytest.raises(WrongResult, match="the output is a tuple; it must be one tensor"):
        workload.build(case_of("timm:resnet18"), load("timm:resnet18")).check()


def test_no_classes_are_unsupported() -> None:
    with pytest.raises(Unsupported, match="has no classes"):
        built("timm:resnet18:num_classes=0")


def test_anticipated_cost_grows_with_batch_and_image() -> None:
    whole = load("soft-tiny")
    one, two = (whole.expected(case_of("soft-tiny", Shape(batch, 0, 64, 64, 0))) for batch in (1, 2))
    assert (two.flops, two.elements) == (2 * one.flops, 2 * one.elements)
    assert one.flops == pytest.approx(whole.closed_form(case_of("soft-tiny", Shape(1, 0, 64, 64, 0))), rel=0.01)
    parts = [part.expected(case_of("soft-tiny", Shape(1, 0, 64, 64, 0))).flops for part in whole.parts()]
    assert 0.99 * one.flops < sum(parts) < one.flops
    step, call = (whole.needed(case_of("soft-tiny", Shape(8, 0, 64, 64, 0), mode=mode))
                  for mode in ("forward_backward", "forward"))
    assert step > 2 * call > 0


def test_closed_forms_of_stages_sum_to_the_model_without_its_head() -> None:
    whole, case = load("soft-tiny"), case_of("soft-tiny")
    head = 2.0 * 2 * 512 * 1000
    assert sum(p.closed_form(case) for p in whole.parts()) + head == pytest.approx(whole.closed_form(case), rel=1e-9)
    with pytest.raises(Unsupported, match="models of timm have no formula"):
        load("timm:resnet18").closed_form(case)
