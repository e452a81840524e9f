"""The learner and its loop: the recipe is what is computed, and numbers that are not finite move nothing."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from training import jobs

from softbench import models
from softbench.errors import ResultsError, UsageError
from softbench.inputs import seeding
from softbench.tasks.images.data import Batch
from softbench.tasks.images.lesson import ImageTask, Lesson, build
from softbench.tasks.images.preparing import Prepared
from softbench.tasks.images.recipe import Recipe, changed
from softbench.tasks.images.sources import open_source
from softbench.training import loop
from softbench.training.distributed import Group
from softbench.training.learner import Arithmetic, Learner
from softbench.training.position import Position

ALONE = Group(0, 1, torch.device("cpu"))


DIGITS = open_source("digits")


def lesson(recipe: Recipe) -> Lesson:
    return Lesson(ImageTask("digits"), DIGITS, recipe, accumulate=1, rank=0, world=1, workers=0, device=ALONE.device)


def learner(recipe: Recipe, arch: str = jobs.ARCH, steps: int = 3, amp: str = "none") -> Learner:
    seeding.reseed(recipe.seed, seeding.WEIGHTS)
    return Learner(build(arch, {}, recipe, 10), lesson(recipe).loss, recipe, Arithmetic(amp), steps=steps, group=ALONE)


def batch(images: int = 16, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8, generator=generator),
                 torch.randint(0, 10, (images,), generator=generator), list(range(images)), [])


class Loader:
    """The same few batches in each epoch."""

    def __init__(self, batches, accumulate=2):
        self.batches, self.accumulate, self.steps = batches, accumulate, len(batches) // accumulate

    def epoch(self, number, step):
        return iter(self.batches[step * self.accumulate:])


def test_norms_biases_positions_and_the_class_token_do_not_decay():
    found = learner(jobs.recipe(), "soft-tiny")
    decays = {id(p): group["weight_decay"] for group in found.optimizer.param_groups for p in group["params"]}
    names = dict(found.model.named_parameters())
    assert len(decays) == len(names)
    free = {name for name, p in names.items() if decays[id(p)] == 0}
    assert {"stages.0.pos_embed", "stages.3.cls_token", "norm.weight", "head.bias"} <= free
    kept = set(names) - free
    assert {"head.weight", "stages.0.blocks.0.attn.q.weight"} <= kept
    assert all(names[name].ndim > 1 and "pos_embed" not in name for name in kept)
    assert {decays[id(names[name])] for name in kept} == {0.05}


def test_the_learning_rate_follows_the_total_batch_and_the_cosine():
    recipe = changed(Recipe(), {"total_batch": 2048, "batch": 16, "warmup_epochs": 10, "drop_path": 0})
    found = learner(recipe, steps=100)
    rates = []
    for epoch in range(301):
        found.move(epoch * 100 + 50)  # within an epoch it stays
        rates.append(found.lr)
    assert rates[0] == pytest.approx(1e-6)
    assert rates[5] == pytest.approx((1e-6 + 2e-3) / 2, rel=1e-3)
    assert rates[150] == pytest.approx(5e-5 + (2e-3 - 5e-5) / 2)
    assert rates[300] == pytest.approx(5e-5)
    by_update = learner(changed(recipe, {"schedule": "update"}), steps=100)
    by_update.move(500)
    assert by_update.lr == pytest.approx(rates[5], rel=1e-6)


def test_accumulated_gradients_are_those_of_the_whole_batch():
    """Of a model without batch norm, dropped paths and mixing, which see a micro-batch at a time."""
    plain = {"mixup": 0, "cutmix": 0, "erasing": 0, "drop_path": 0, "ema": 0, "clip": 0}
    whole, halves = batch(32), []
    for part in (slice(0, 16), slice(16, 32)):
        halves.append(Batch(whole.images[part], whole.labels[part], whole.indices[part], []))
    gradients = []
    for size, batches in ((32, [whole]), (16, halves)):
        found = learner(jobs.recipe(batch=size, **plain), "timm:test_vit")
        losses = [found.loss_of(part, 0, i, last=i == len(batches) - 1) for i, part in enumerate(batches)]
        gradients.append((torch.stack(losses).mean(), found.norm()))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_images_are_normalised_as_timm_does():
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    found = Prepared.by_recipe(jobs.recipe()).normalised(white, ALONE.device)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(found[0, :, 0, 0], expected)


def test_the_average_follows_the_weights_with_the_recipes_decay():
    found = learner(jobs.recipe(ema=0.75, ema_warmup=False))
    before = found.model.conv_stem.weight.detach().clone()
    list(loop.steps(found, Loader([batch(), batch(seed=1)]), Position(), lambda batches: []))
    after = found.model.conv_stem.weight
    assert not torch.equal(before, after)
    torch.testing.assert_close(found.ema.module.conv_stem.weight, 0.75 * before + 0.25 * after)


@pytest.mark.parametrize("amp", ["bfloat16", "none"])
def test_autocast_reaches_the_model_and_not_the_loss(amp):
    found = learner(jobs.recipe(), amp=amp)
    seen = []
    found.network.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    loss = found.loss_of(batch(), 0, 0, last=True)
    assert seen == [torch.bfloat16 if amp == "bfloat16" else torch.float32]
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_a_step_that_is_not_finite_moves_nothing():
    found = learner(jobs.recipe())
    real, poison = found.network, [1]

    class Poisoned(nn.Module):
        def forward(self, x):
            return real(x * math.nan if poison and poison.pop() else x)

    found.network = Poisoned()
    before = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    average = {name: tensor.clone() for name, tensor in found.ema.module.state_dict().items()}
    position = Position()
    step = next(loop.steps(found, Loader([batch(seed=i) for i in range(4)]), position, lambda batches: []))
    assert not step.finite
    assert jobs.equal(dict(found.model.state_dict()), before), "batch norm remembers what was not finite"
    assert jobs.equal(dict(found.ema.module.state_dict()), average)
    assert (position.step, position.updates, position.counted) == (0, 0, 0)
    assert all(p.grad is None for p in found.model.parameters())


def test_a_step_left_out_does_not_trouble_the_scaler():
    found = learner(jobs.recipe(), amp="float16")
    real, poison = found.network, [1]

    class Poisoned(nn.Module):
        def forward(self, x):
            return real(x) * (math.nan if poison and poison.pop() else 1)

    found.network = Poisoned()
    before = {name: tensor.clone() for name, tensor in found.model.state_dict().items()}
    position, scale = Position(), found.scaler.get_scale()
    taken = loop.steps(found, Loader([batch(seed=i) for i in range(6)]), position, lambda batches: [])
    assert not next(taken).finite
    assert jobs.equal(dict(found.model.state_dict()), before)
    loop.advance(found, position)
    assert next(taken).finite
    assert found.scaler.get_scale() < scale


def test_gradients_are_unscaled_before_they_are_clipped():
    """At any scale that does not overflow, the norm that is clipped is that of the gradients without one."""
    norms = []
    for scale in (1.0, 2.0**8):
        found = learner(jobs.recipe(erasing=0, mixup=0, cutmix=0), amp="float16")
        found.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        found.loss_of(batch(), 0, 0, last=True)
        norms.append(found.norm())
    torch.testing.assert_close(norms[0], norms[1], rtol=0.05, atol=0)


def test_batch_norm_over_all_gpus_keeps_what_timm_has_inside_of_it():
    """An activation: torch's own conversion drops it. In evaluation it computes on a CPU, too."""
    plain, images = build(jobs.ARCH, {}, jobs.recipe(), 10).eval(), torch.randn(2, 3, 32, 32)
    expected = plain(images)
    found = Learner(plain, lesson(jobs.recipe()).loss, jobs.recipe(), Arithmetic(sync_bn=True), steps=1, group=ALONE)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in found.model.modules())
    torch.testing.assert_close(found.model.eval()(images), expected)
    assert found.optimizer.param_groups[1]["params"][0] in set(found.model.parameters())


def poisoned(monkeypatch, *updates):
    """Losses of these micro-batches (epoch, number) are not finite."""
    real = Learner.loss_of

    def loss_of(self, found, epoch, number, *, last):
        loss = real(self, found, epoch, number, last=last)
        return loss * math.nan if (epoch, number) in updates else loss

    monkeypatch.setattr(Learner, "loss_of", loss_of)


def test_on_nan_stop_keeps_a_checkpoint_and_the_images(tmp_path, monkeypatch):
    poisoned(monkeypatch, (1, 3))
    with pytest.raises(ResultsError, match="not finite in epoch 2, step 2") as stopped:
        jobs.train(jobs.job(tmp_path))
    assert "--on-nan skip" in str(stopped.value)
    assert jobs.weights(tmp_path)["position"]["updates"] == 4
    found = json.loads((tmp_path / "nan-step-00000005.json").read_text())
    assert (found["epoch"], found["step"]) == (2, 2)
    assert [len(part) for part in found["processes"][0]["indices"]] == [16, 16]
    assert found["processes"][0]["losses"][1] == "nan"


def test_a_checkpoint_from_before_the_first_step_changes_nothing(tmp_path):
    jobs.train(jobs.job(tmp_path / "whole", epochs=1))
    with pytest.MonkeyPatch.context() as patch:
        poisoned(patch, (0, 0))
        with pytest.raises(ResultsError, match="epoch 1, step 1"):
            jobs.train(jobs.job(tmp_path / "begun", epochs=1))
    assert jobs.weights(tmp_path / "begun")["position"]["updates"] == 0
    jobs.train(jobs.job(tmp_path / "begun", epochs=1))
    one, other = jobs.weights(tmp_path / "begun"), jobs.weights(tmp_path / "whole")
    assert all(jobs.equal(one[part], other[part]) for part in ("state_dict", "state_dict_ema", "optimizer"))


def test_on_nan_skip_leaves_the_step_out_and_goes_on(tmp_path, monkeypatch):
    poisoned(monkeypatch, (0, 2))
    watch = jobs.Watch()
    found = jobs.train(jobs.job(tmp_path, on_nan="skip"), watch)
    assert len(watch.losses) == 5
    assert any("the step is left out" in text for text in watch.said)
    assert jobs.weights(tmp_path)["position"] | {"best": 0} == jobs.weights(tmp_path)["position"] | {
        "best": 0, "skipped": 1, "epoch": 2, "updates": 6}
    assert found[0].detail["skipped_steps"] == 1


def test_skipping_without_end_stops(tmp_path, monkeypatch):
    monkeypatch.setattr("softbench.training.run._MOST_SKIPPED", 2)
    poisoned(monkeypatch, *((epoch, number) for epoch in range(2) for number in range(6)))
    with pytest.raises(ResultsError, match="epoch 1, step 3"):
        jobs.train(jobs.job(tmp_path, on_nan="skip"))


@pytest.mark.parametrize(("labels", "error", "said"), [
    ([0, 10], UsageError, "label 10, and there are 10 classes"), ([0, -1], ResultsError, "No training image could be")])
def test_labels_that_no_output_belongs_to(labels, error, said):
    wrong = Batch(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor(labels), [0, 1], [])
    with pytest.raises(error, match=said):
        next(loop.steps(learner(jobs.recipe()), Loader([wrong, wrong]), Position(), lambda batches: []))


def test_images_that_are_mixed_come_in_pairs():
    with pytest.raises(UsageError, match="batch of 15 is odd"):
        ImageTask("digits").open(jobs.recipe(total_batch=30, batch=15), rank=0, world=1, accumulate=2, workers=0,
                              device=ALONE.device)


def test_data_that_end_too_early_are_an_error():
    short = Loader([batch()])
    short.steps = 1
    with pytest.raises(ResultsError, match="ended before the epoch did"):
        next(loop.steps(learner(jobs.recipe()), short, Position(), lambda batches: []))


def test_models_of_timm_are_built_with_what_they_take():
    assert build("timm:test_vit", {}, jobs.recipe(), 7).num_classes == 7
    assert build("timm:resnet18", {}, jobs.recipe(), 7).num_classes == 7  # takes no size of images
    with pytest.raises(UsageError, match="takes no landmarks"):
        build("timm:resnet18", {"landmarks": 4}, jobs.recipe(), 7)
    with pytest.raises(UsageError, match="timm has no model named"):
        build("timm:resent18", {}, jobs.recipe(), 7)


def test_the_seed_decides_the_weights():
    one, two, other = (learner(jobs.recipe(seed=seed)).model.state_dict() for seed in (0, 0, 1))
    assert jobs.equal(dict(one), dict(two))
    assert not jobs.equal(dict(one), dict(other))
    assert models.PEER == "timm:"
