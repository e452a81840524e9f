"""`softbench eval-imagenet`: the accuracy of trained weights on images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from softbench import parsing, records
from softbench.cli import _presenting, _printing, _running, _training
from softbench.errors import UsageError

SECTION = "Train"
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


def _colours(context: click.Context, flag: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Three numbers for red, green and blue."""
    if text is None:
        return None
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    low = 0.0 if flag.name == "mean" else 1e-3
    if len(numbers) != 3 or not all(low <= number <= 1 for number in numbers):
        raise UsageError(f"--{flag.name} takes three numbers from {low:g} to 1, as in 0.485,0.456,0.406; not '{text}'.")
    return numbers


@click.command("eval-imagenet", context_settings=_running.CONTEXT)
@click.option("--arch", default="", metavar="NAME", help="What the checkpoint is of. [what it says itself]")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, metavar="FILE",
              help="A checkpoint of train-imagenet, official weights, or a state dict of a timm model.")
@_training.of_images
@click.option("--weights", type=click.Choice(["best", "ema", "model"]), default="best", show_default=True,
              help="Which of a checkpoint's: those that scored best in training, the averaged, or the last ones.")
@click.option("--batch", type=click.IntRange(min=1), default=128, show_default=True, metavar="N",
              help="Images that a device computes at once.")
@click.option("--img-size", type=click.IntRange(min=4), metavar="PIXELS",
              help="Side of the images. [that of training; for weights of timm its own, as with the next four]")
@click.option("--crop", type=_running.Number(min=0.01, max=1), metavar="X",
              help="Side of the crop over the side of the resized image.")
@click.option("--interpolation", type=click.Choice(_INTERPOLATIONS), help="How images are resized.")
@click.option("--mean", callback=_colours, metavar="R,G,B", help="Subtracted from images, where white is 1.")
@click.option("--std", callback=_colours, metavar="R,G,B", help="What images are divided by afterwards.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON Lines file to append records to.")
@_printing.format_option
def eval_imagenet_command(arch: str, checkpoint: Path, out: Path | None, device: str, amp: str, workers: int | None,
                          splits: str, assignments: Sequence[str], form: str, **flags: Any) -> int:
    """Score a checkpoint: top-1, top-5 and images a second over the validation split, prepared as for its training."""
    from softbench.machine.device import find
    from softbench.tasks.images.lesson import ImageTask
    from softbench.tasks.images.weights import Weights
    from softbench.training import scoring

    if out is not None:
        records.check_writable(out)
    settings, attention = _training.assigned(assignments, arch)
    if settings:
        raise UsageError(f"eval-imagenet trains nothing: --set {next(iter(settings))} has no effect here.")
    where = find(device)
    images = ImageTask(flags.pop("data"), parsing.splits(splits), flags.pop("class_map"), limit=flags.pop("limit"))
    running = {key: flags.pop(key) for key in ("batch", "threads", "max_bad")}
    scores = scoring.score(scoring.Scoring(
        Weights(checkpoint, images, arch=arch, options=attention, **flags), images, device=where,
        amp=_training.amp(amp, where), workers=_training.workers(workers, where), out=out.parent if out else Path(),
        command=_running.command(), **running), _printing.say)
    if scores:
        try:
            if out is not None:
                records.append(out, scores)
        finally:  # a score that could not be kept is still told
            _presenting.print_records(scores, form, "", _presenting.choose(("eval",), None, plot=False))
    return 0
