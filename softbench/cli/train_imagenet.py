"""`softbench train-imagenet`: backbones on images, from a laptop to many machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from softbench import options
from softbench.cli import _presenting, _printing, _running, _training
from softbench.cli._progress import Watcher
from softbench.errors import UsageError
from softbench.tasks.images.recipe import Recipe, changed, row

SECTION = "Train"


@click.command("train-imagenet", context_settings=_running.CONTEXT)
@click.option("--arch", default="soft-tiny", show_default=True, metavar="NAME",
              help="An attention and a variant, as in performer-small or ./mine.py-tiny, or timm:NAME.")
@_training.options
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
              help="Folder of the run. [results/train/ARCH-DATA]")
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="Epochs. [as in the recipe]")
@click.option("--total-batch", type=click.IntRange(min=1), metavar="N",
              help="Images of one step, over all devices. [as in the recipe]")
@click.option("--batch", type=click.IntRange(min=1), metavar="N",
              help="Images that a device computes at once. [the largest that fits, up to the recipe's]")
@click.option("--img-size", type=click.IntRange(min=4), metavar="PIXELS", help="Side of the images.")
@click.option("--classes", type=click.IntRange(min=1), metavar="N", help="Classes. [those of the data]")
@click.option("--compile", is_flag=True, help="Compile the model with torch.compile.")
@click.option("--sync-bn", is_flag=True, help="Batch norm over all GPUs.")
@click.option("--fsdp", is_flag=True, help="Shard the model over the processes instead of copying it.")
@click.option("--checkpoint-minutes", type=_running.Number(min=0), default=10.0, show_default=True, metavar="X",
              help="Time between checkpoints, besides the one after each epoch.")
@click.option("--on-nan", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
              help="What to do about a step whose loss or gradient is not finite.")
@click.option("--resume/--no-resume", default=True, show_default=True,
              help="Go on where the run in --out was left; with --no-resume such a run is an error.")
@click.option("--tensorboard", is_flag=True, help="Also write curves for TensorBoard.")
@click.option("--dry-run", is_flag=True, help="Check everything and show the recipe; run nothing.")
@_printing.format_option
def train_imagenet_command(arch: str, out: Path | None, device: str, amp: str, workers: int | None, splits: str,
                           assignments: Sequence[str], form: str, dry_run: bool, **flags: Any) -> int:
    """Train a backbone by the published recipe; the same command goes on after any interruption."""
    settings, attention = _training.assigned(assignments, arch)
    given = {key: flags.pop(key) for key in ("epochs", "total_batch", "batch", "img_size")}
    given = {key: value for key, value in given.items() if value is not None}
    if twice := next((key for key in given if key in settings), ""):
        raise UsageError(f"--{twice.replace('_', '-')} and --set {twice} are both given: leave one out.")
    settings |= given
    recipe = changed(row(*_training.parsed(arch), flags["data"]), settings)
    out = out or Path("results") / "train" / f"{_slug(arch)}-{_slug(Path(flags['data']).name or flags['data'])}"

    from softbench.machine.device import find
    from softbench.tasks.images.lesson import ImageTask
    from softbench.training import distributed, job
    from softbench.training.learner import Arithmetic
    from softbench.training.plan import Job

    where = find(device)
    data = flags["data"]
    images = ImageTask(splits=_training.splits(splits), **{key: flags.pop(key) for key in _training.OF_IMAGES})
    arithmetic = Arithmetic(_training.amp(amp, where), flags.pop("compile"), flags.pop("sync_bn"), flags.pop("fsdp"))
    asked = Job(
        arch=arch, task=images, out=out, recipe=recipe, options=attention, arithmetic=arithmetic, device=where,
        given_batch="batch" in settings, workers=_training.workers(workers, where),
        minutes=flags.pop("checkpoint_minutes"), command=_running.command(), **flags)
    if dry_run:
        job.look(asked, _printing.say)
        rows = [(name, str(getattr(recipe, name)), text) for name, _, _, text in options.describe(Recipe)]
        title = f"The recipe of {arch} on {data}, not run."
        _printing.print_tables([_printing.listing(title, ("key", "value", "what"), rows)], form)
        return 0
    with Watcher(distributed.is_leader()) as watch:
        epochs = job.train(asked, watch)
    if epochs:
        _presenting.print_records(epochs, form, "", _presenting.choose(("train",), None, plot=False))
        _printing.say(f"Run: {out}")
    return 0


def _slug(text: str) -> str:
    """A name that a folder can have."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text).strip("-")
