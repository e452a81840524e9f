"""Recipes: the published values, and what may be changed in them."""

from __future__ import annotations

import pytest

from softbench.errors import UsageError
from softbench.tasks.images.recipe import DIGITS, Recipe, changed, differences, row


def test_tiny_trains_as_published():
    recipe = row("soft", "tiny", "imagenet")
    published = {
        "epochs": 300, "total_batch": 1024, "img_size": 224, "lr": 1e-3, "lr_batch": 1024, "min_lr": 5e-5,
        "warmup_epochs": 10, "warmup_lr": 1e-6, "weight_decay": 0.05, "clip": 1.0, "ema": 0.99996, "smoothing": 0.1,
        "mixup": 0.8, "cutmix": 1.0, "mixup_switch": 0.5, "augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4,
        "erasing": 0.25, "hflip": 0.5, "drop_path": 0.1, "crop_scale": 0.08, "eval_crop": 0.875}
    assert {name: getattr(recipe, name) for name in published} == published


@pytest.mark.parametrize(("attention", "variant", "lr", "batch"), [
    ("soft", "small", 1e-3, 128), ("soft", "medium", 3.5e-4, 32), ("soft_norm", "medium", 4e-4, 32),
    ("soft", "large", 3.3e-4, 32), ("soft_norm", "large", 3.3e-4, 32), ("soft", "huge", 2.7e-4, 32),
    ("performer", "tiny", 1e-3, 128), ("", "", 1e-3, 128), ("soft", "small_d20", 1e-3, 128)])
def test_each_variant_has_its_row(attention, variant, lr, batch):
    recipe = row(attention, variant, "imagenet")
    assert (recipe.lr, recipe.batch, recipe.total_batch) == (lr, batch, 1024)


def test_digits_have_their_own():
    assert row("soft", "huge", "digits") is DIGITS
    assert DIGITS.hflip == 0  # a mirrored 2 is no digit


def test_values_are_parsed_and_checked():
    recipe = changed(Recipe(), {"warmup_epochs": "5", "lr": "5e-4", "schedule": "update"})
    assert (recipe.warmup_epochs, recipe.lr, recipe.schedule) == (5, 5e-4, "update")
    for values, said in (({"lr": "fast"}, "finite number"), ({"mixup": -1}, "at least 0"),
                         ({"wramup_epochs": 5}, "warmup_epochs"), ({"schedule": "hour"}, "epoch, update"),
                         ({"epochs": 5, "warmup_epochs": 5}, "leave none of 5")):
        with pytest.raises(UsageError, match=said):
            changed(Recipe(), values)


def test_a_short_trial_of_a_long_recipe_warms_up_less():
    assert changed(Recipe(), {"epochs": 5}).warmup_epochs == 0
    assert changed(Recipe(), {"epochs": 10}).warmup_epochs == 1
    assert changed(Recipe(), {"epochs": 300}).warmup_epochs == 10


def test_differences_name_what_changed():
    assert differences({"lr": 1, "clip": 2}, {"lr": 3, "clip": 2}) == ["lr: 1 -> 3"]
    assert differences({"lr": 1}, {"lr": 1}) == []
    assert differences({}, {"new": 1}) == ["new: None -> 1"]
