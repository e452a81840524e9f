"""`softbench train-imagenet`: backbones on images, from a laptop to many machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from softbench import parsing
from softbench.cli import _running, _training
from softbench.contracts.recipe import changed
from softbench.tasks.images.recipe import row

SECTION = "Train"


@click.command("train-imagenet", context_settings=_running.CONTEXT)
@click.option("--arch", default="soft-tiny", show_default=True, metavar="NAME",
              help="An attention and a variant, as in performer-small or ./mine.py-tiny, or timm:NAME.")
@_training.of_images
@click.option("--img-size", type=click.IntRange(min=4), metavar="PIXELS", help="Side of the images.")
@click.option("--classes", type=click.IntRange(min=1), metavar="N", help="Classes. [those of the data]")
@_training.learning
def train_imagenet_command(arch: str, assignments: Sequence[str], data: str, splits: str, class_map: str,
                           classes: int | None, limit: int | None, **flags: Any) -> int:
    """Train a backbone by the published recipe; the same command goes on after any interruption."""
    settings, attention = _training.assigned(assignments, arch)
    settings = _training.with_flags(settings, flags, ("epochs", "total_batch", "batch", "img_size"))
    recipe = changed(row(*_training.parsed(arch), data), settings)

    from softbench.tasks.images.lesson import ImageTask

    images = ImageTask(data, parsing.splits(splits), class_map, classes, limit)
    return _training.run(arch, images, recipe, attention, flags, given_batch="batch" in settings)
