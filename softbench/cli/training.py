"""`softbench train-imagenet` and `softbench eval-imagenet`: backbones on images, from a laptop to many machines."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softbench import options as opts
from softbench import plugins
from softbench.case import TIMM
from softbench.cli import presenting, printing, running
from softbench.errors import UsageError, unknown
from softbench.training.recipe import Recipe, changed, row

if TYPE_CHECKING:
    from softbench.training.position import Position

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_AMP = ("auto", "none", "bfloat16", "float16")
_LINE_SECONDS = 10.0  # between lines on steps, where there is no bar
_PEER = f"{TIMM}:"


def _shared(command: Callable[..., int]) -> Callable[..., int]:
    """The flags that training and evaluation have in common."""
    flags = (
        click.option("--data", required=True, metavar="DIR|NAME",
                     help="A folder with train/ and val/, or train.tar and val.tar; hfds:NAME, hfids:NAME, wds:DIR,"
                          " tfds:NAME as timm reads them; synthetic; digits."),
        click.option("--splits", metavar="TRAIN,VAL", default="train,validation", show_default=True,
                     help="Names of the splits where the data are not a folder."),
        click.option("--class-map", default="", metavar="FILE",
                     help="Labels of the classes: a name a line, or a name and its label."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N images of each split."),
        click.option("--device", default="auto", show_default=True, metavar="NAME",
                     help="cpu, cuda; auto takes a GPU if there is one."),
        click.option("--amp", type=click.Choice(_AMP), default="auto", show_default=True,
                     help="Autocast; auto is bfloat16 on a GPU and none on a CPU."),
        click.option("--workers", type=click.IntRange(0, 256), metavar="N",
                     help="Processes that load images. [4 for each GPU, 0 on a CPU]"),
        click.option("--threads", type=click.IntRange(0, 1024), default=0, metavar="N",
                     help="CPU threads; 0 shares all cores among the processes here. [0]"),
        click.option("--max-bad", type=click.IntRange(min=0), default=100, show_default=True, metavar="N",
                     help="Images that may be unreadable; they are named in bad-images.txt."),
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
                     help="Any key of the recipe, or an option of the attention, as in landmarks=64. Repeatable."),
    )
    for flag in reversed(flags):
        command = flag(command)
    return command


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


@click.command("train-imagenet", context_settings=running.CONTEXT)
@click.option("--arch", default="soft-tiny", show_default=True, metavar="NAME",
              help="An attention and a variant, as in performer-small or ./mine.py-tiny, or timm:NAME.")
@_shared
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
@click.option("--checkpoint-minutes", type=running.Number(min=0), default=10.0, show_default=True, metavar="X",
              help="Time between checkpoints, besides the one after each epoch.")
@click.option("--on-nan", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
              help="What to do about a step whose loss or gradient is not finite.")
@click.option("--resume/--no-resume", default=True, show_default=True,
              help="Go on where the run in --out was left; with --no-resume such a run is an error.")
@click.option("--tensorboard", is_flag=True, help="Also write curves for TensorBoard.")
@click.option("--dry-run", is_flag=True, help="Check everything and show the recipe; run nothing.")
@printing.format_option
def train_imagenet_command(arch: str, out: Path | None, device: str, amp: str, workers: int | None, splits: str,
                           assignments: Sequence[str], form: str, dry_run: bool, **flags: Any) -> int:
    """Train a backbone by the published recipe; the same command goes on after any interruption."""
    settings, attention = _assigned(assignments, arch)
    given = {key: flags.pop(key) for key in ("epochs", "total_batch", "batch", "img_size")}
    given = {key: value for key, value in given.items() if value is not None}
    if twice := next((key for key in given if key in settings), ""):
        raise UsageError(f"--{twice.replace('_', '-')} and --set {twice} are both given: leave one out.")
    settings |= given
    recipe = changed(row(*_parsed(arch), flags["data"]), settings)
    out = out or Path("results") / "train" / f"{_slug(arch)}-{_slug(Path(flags['data']).name or flags['data'])}"

    from softbench.bench import session
    from softbench.training import distributed, job
    from softbench.training.learner import Arithmetic
    from softbench.training.plan import Job

    where = session.device(device)
    arithmetic = Arithmetic(_amp(amp, where), flags.pop("compile"), flags.pop("sync_bn"), flags.pop("fsdp"))
    asked = Job(
        arch=arch, out=out, recipe=recipe, options=attention, arithmetic=arithmetic, device=where,
        given_batch="batch" in settings, workers=_workers(workers, where), splits=_splits(splits),
        minutes=flags.pop("checkpoint_minutes"), command=running.command(), **flags)
    if dry_run:
        job.look(asked, printing.say)
        rows = [(name, str(getattr(recipe, name)), text) for name, _, _, text in opts.describe(Recipe)]
        title = f"The recipe of {arch} on {asked.data}, not run."
        printing.print_tables([printing.listing(title, ("key", "value", "what"), rows)], form)
        return 0
    with Watcher(distributed.is_leader()) as watch:
        found = job.train(asked, watch)
    if found:
        presenting.print_records(found, form, "", presenting.choose(("train",), None, plot=False))
        printing.say(f"Run: {out}")
    return 0


@click.command("eval-imagenet", context_settings=running.CONTEXT)
@click.option("--arch", default="", metavar="NAME", help="What the checkpoint is of. [what it says itself]")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True, metavar="FILE",
              help="A checkpoint of train-imagenet, official weights, or a state dict of a timm model.")
@_shared
@click.option("--weights", type=click.Choice(["best", "ema", "model"]), default="best", show_default=True,
              help="Which of a checkpoint's: those that scored best in training, the averaged, or the last ones.")
@click.option("--batch", type=click.IntRange(min=1), default=128, show_default=True, metavar="N",
              help="Images that a device computes at once.")
@click.option("--img-size", type=click.IntRange(min=4), metavar="PIXELS",
              help="Side of the images. [that of training; for weights of timm its own, as with the next four]")
@click.option("--crop", type=running.Number(min=0.01, max=1), metavar="X",
              help="Side of the crop over the side of the resized image.")
@click.option("--interpolation", type=click.Choice(_INTERPOLATIONS), help="How images are resized.")
@click.option("--mean", callback=_colours, metavar="R,G,B", help="Subtracted from images, where white is 1.")
@click.option("--std", callback=_colours, metavar="R,G,B", help="What images are divided by afterwards.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON Lines file to append records to.")
@printing.format_option
def eval_imagenet_command(arch: str, checkpoint: Path, out: Path | None, device: str, amp: str, workers: int | None,
                          splits: str, assignments: Sequence[str], form: str, **flags: Any) -> int:
    """Score a checkpoint: top-1, top-5 and images a second over the validation split, prepared as for its training."""
    from softbench import records
    from softbench.bench import session
    from softbench.training import scoring

    if out is not None:
        records.check_writable(out)
    settings, attention = _assigned(assignments, arch)
    if settings:
        raise UsageError(f"eval-imagenet trains nothing: --set {next(iter(settings))} has no effect here.")
    where = session.device(device)
    found = scoring.score(scoring.Scoring(
        checkpoint, arch=arch, options=attention, device=where, amp=_amp(amp, where), workers=_workers(workers, where),
        splits=_splits(splits), out=out.parent if out else Path(), command=running.command(), **flags), printing.say)
    if found:
        try:
            if out is not None:
                records.append(out, found)
        finally:  # a score that could not be kept is still told
            presenting.print_records(found, form, "", presenting.choose(("eval",), None, plot=False))
    return 0


class Watcher:
    """Tells on stderr how training goes: a bar on a terminal, lines elsewhere; nothing on processes but the first.

    Should nobody be there to listen any more (a closed pipe, a log on a full disk), training goes on untold.
    """

    def __init__(self, speaks: bool) -> None:
        self.speaks, self._said = speaks, time.monotonic()
        self._bar: Any = _bar() if speaks and sys.stderr and sys.stderr.isatty() else None
        self._task: Any = None
        self._begun: tuple[float, int] | None = None  # when, and after how many steps

    def __enter__(self) -> Watcher:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            with suppress(OSError):
                self._bar.stop()

    def say(self, text: str) -> None:
        """A remark."""
        try:
            if self._bar:
                self._bar.console.print(text, markup=False, highlight=False)
            elif self.speaks:
                printing.say(text)
        except OSError:
            self.speaks = False

    def step(self, position: Position, steps: int, epochs: int, loss: float, lr: float, speed: float) -> None:
        """A step is done."""
        done, total = position.epoch * steps + position.step, epochs * steps
        text = f"epoch {position.epoch + 1}/{epochs}  loss {loss:.4f}  lr {lr:.2e}  {speed:,.0f} images/s"
        if self._bar:
            if self._task is None:
                self._task = self._bar.add_task("", total=total, completed=done)  # what was done before has no speed
            self._bar.update(self._task, completed=done, description=text)
            return
        now = time.monotonic()
        since, before = self._begun = self._begun or (now, done)
        if now - self._said > _LINE_SECONDS:
            self._said = now
            if done > before:
                text += f"  {timedelta(seconds=round((now - since) / (done - before) * (total - done)))} left"
            self.say(f"[{done}/{total}] {text}")

    def epoch(self, number: int, epochs: int, numbers: dict[str, float]) -> None:
        """An epoch is done and evaluated."""
        averaged = f" (EMA {numbers['top1_ema']:.2%})" if "top1_ema" in numbers else ""
        self.say(f"Epoch {number}/{epochs}: train loss {numbers['train_loss']:.4f}, val. loss {numbers['loss']:.4f},"
                 f" top-1 {numbers['top1']:.2%}{averaged}, {numbers['images_per_second']:,.0f} images/s")


def _bar() -> Any:
    from rich import progress as rich
    from rich.console import Console

    return rich.Progress(rich.BarColumn(24), rich.TaskProgressColumn(), rich.TimeElapsedColumn(),
                         rich.TextColumn("left"), rich.TimeRemainingColumn(), rich.TextColumn("{task.description}"),
                         console=Console(stderr=True), transient=True)


def _assigned(assignments: Sequence[str], arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of the recipe and options of the attention that `--set` gives.

    Where both have a key, it is the recipe's; `recipe.` and `attention.` in front tell them apart.
    """
    recipe: dict[str, Any] = {}
    attention: dict[str, Any] = {}
    keys = {field.name for field in dataclasses.fields(Recipe)}
    name = _parsed(arch)[0] if arch else ""
    options = [f.name for f in dataclasses.fields(plugins.load("attention", name, ["Options"]).Options)] if name else []
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        kind, dot, bare = key.strip().rpartition(".")
        if not equals or not bare or (dot and kind not in ("recipe", "attention")):
            raise UsageError(f"--set: '{assignment}' is not KEY=VALUE, recipe.KEY=VALUE or attention.KEY=VALUE.")
        if kind != "recipe" and bare in options and (kind or bare not in keys):
            attention[bare] = value.strip()
        elif kind != "attention" and bare in keys:
            recipe[bare] = value.strip()
        else:
            raise unknown(f"key of the recipe or option of the attention of {arch or 'this checkpoint'}", bare,
                          [*(keys if kind != "attention" else ()), *(options if kind != "recipe" else ())])
    return recipe, attention


def _parsed(arch: str) -> tuple[str, str]:
    """Attention and variant of an arch; of a timm model neither."""
    if arch.startswith(_PEER):
        return "", ""
    from softbench.models.variants import parse

    return parse(arch)


def _amp(name: str, device: str) -> str:
    if name != "auto":
        return name
    return "bfloat16" if device.startswith("cuda") else "none"


def _workers(count: int | None, device: str) -> int:
    return count if count is not None else 4 if device.startswith("cuda") else 0


def _splits(text: str) -> tuple[str, str]:
    train, comma, val = text.partition(",")
    if not comma or not train or not val or "," in val:
        raise UsageError(f"--splits takes two names, as in train,validation; not '{text}'.")
    return train, val


def _slug(text: str) -> str:
    """A name that a folder can have."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text).strip("-")
