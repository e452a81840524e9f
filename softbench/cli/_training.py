"""Commands that train or evaluate: the flags that they share, and how these are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softbench import options, plugins
from softbench.case import TIMM
from softbench.cli import _presenting, _printing, _running
from softbench.cli._progress import Watcher
from softbench.contracts import recipe as recipes
from softbench.dtypes import BFLOAT16, FLOAT16
from softbench.errors import UsageError, unknown
from softbench.machine.kinds import is_gpu
from softbench.tasks.images.recipe import Recipe

if TYPE_CHECKING:
    from softbench.training.task import Task

Command = Callable[..., int]
Flag = Callable[[Command], Command]
_AMP = ("auto", "none", BFLOAT16, FLOAT16)
_PEER = f"{TIMM}:"


def of_images(command: Command) -> Command:
    """The flags that training and evaluation on images have in common."""
    return _with((
        click.option("--data", required=True, metavar="DIR|NAME",
                     help="A folder with train/ and val/, or train.tar and val.tar; hfds:NAME, hfids:NAME, wds:DIR,"
                          " tfds:NAME as timm reads them; synthetic; digits."),
        click.option("--splits", metavar="TRAIN,VAL", default="train,validation", show_default=True,
                     help="Names of the splits where the data are not a folder."),
        click.option("--class-map", default="", metavar="FILE",
                     help="Labels of the classes: a name a line, or a name and its label."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N images of each split."),
    ), running(command))


def running(command: Command) -> Command:
    """The flags that say where and how anything is trained or evaluated."""
    return _with((
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
    ), command)


def learning(command: Command) -> Command:
    """The flags of a training of any task."""
    return _with((
        click.option("--out", type=click.Path(path_type=Path), metavar="DIR",
                     help="Folder of the run. [results/train/ARCH-DATA]"),
        click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="Epochs. [as in the recipe]"),
        click.option("--total-batch", type=click.IntRange(min=1), metavar="N",
                     help="Samples of one step, over all devices. [as in the recipe]"),
        click.option("--batch", type=click.IntRange(min=1), metavar="N",
                     help="Samples that a device computes at once. [the largest that fits, up to the recipe's]"),
        click.option("--compile", is_flag=True, help="Compile the model with torch.compile."),
        click.option("--sync-bn", is_flag=True, help="Batch norm over all GPUs."),
        click.option("--fsdp", is_flag=True, help="Shard the model over the processes instead of copying it."),
        click.option("--checkpoint-minutes", type=_running.Number(min=0), default=10.0, show_default=True, metavar="X",
                     help="Time between checkpoints, besides the one after each epoch."),
        click.option("--on-nan", type=click.Choice(["stop", "skip"]), default="stop", show_default=True,
                     help="What to do about a step whose loss or gradient is not finite."),
        click.option("--resume/--no-resume", default=True, show_default=True,
                     help="Go on where the run in --out was left; with --no-resume such a run is an error."),
        click.option("--tensorboard", is_flag=True, help="Also write curves for TensorBoard."),
        click.option("--dry-run", is_flag=True, help="Check everything and show the recipe; run nothing."),
        _printing.format_option,
    ), command)


def _with(flags: Sequence[Flag], command: Command) -> Command:
    for flag in reversed(flags):
        command = flag(command)
    return command


def assigned(assignments: Sequence[str], arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of the recipe of images, and options of the attention inside an arch, that `--set` gives."""
    name = parsed(arch)[0] if arch else ""
    of = f"key of the recipe or option of the attention of {arch or 'this checkpoint'}"
    recipe, attention = shared_out(
        assignments, {"recipe": keys(Recipe), "attention": attention_keys(name) if name else []}, of)
    return recipe, attention


def shared_out(assignments: Sequence[str], kinds: Mapping[str, Sequence[str]], of: str) -> list[dict[str, Any]]:
    """The values of `--set` by the kind of their key, in the order of kinds.

    Where several kinds have a key, it is that of the first; `KIND.` in front of a key tells them apart.

    Raises:
        UsageError: text that is no assignment, or a key that none of them has.
    """
    values: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        kind, dot, bare = key.strip().rpartition(".")
        if not equals or not bare or (dot and kind not in kinds):
            *more, last = [f"{kind}.KEY=VALUE" for kind in kinds]
            raise UsageError(f"--set: '{assignment}' is not KEY=VALUE, {', '.join(more)} or {last}.")
        open_to = {name: names for name, names in kinds.items() if kind in ("", name)}
        home = next((name for name, names in open_to.items() if bare in names), "")
        if not home:
            raise unknown(of, bare, [name for names in open_to.values() for name in names])
        values[home][bare] = value.strip()
    return list(values.values())


def keys(table: type) -> list[str]:
    """The keys of a dataclass of options."""
    return [field.name for field in dataclasses.fields(table)]


def attention_keys(name: str) -> list[str]:
    """The options of an attention."""
    return keys(plugins.load("attention", name, ["Options"]).Options)


def with_flags(settings: dict[str, Any], flags: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The recipe's keys with those that flags of their own give, which are taken out of the flags.

    Raises:
        UsageError: one is given both ways.
    """
    values = {name: value for name in names if (value := flags.pop(name)) is not None}
    if twice := next((name for name in values if name in settings), ""):
        raise UsageError(f"--{twice.replace('_', '-')} and --set {twice} are both given: leave one out.")
    return settings | values


def run(arch: str, task: Task, recipe: recipes.Recipe, attention: dict[str, Any], flags: dict[str, Any], *,
        given_batch: bool) -> int:
    """Train an arch on a task, or say what would be done, by the flags of `running` and `learning`."""
    from softbench.machine.device import find
    from softbench.training import distributed, job
    from softbench.training.learner import Arithmetic
    from softbench.training.plan import Job

    form, dry_run, device = flags.pop("form"), flags.pop("dry_run"), find(flags.pop("device"))
    arithmetic = Arithmetic(amp(flags.pop("amp"), device), *(flags.pop(key) for key in ("compile", "sync_bn", "fsdp")))
    of = task.data if "=" in task.data else Path(task.data).name or task.data  # a task with settings, or a folder
    out = flags.pop("out") or Path("results") / "train" / f"{slug(arch)}-{slug(of)}"
    training = Job(
        arch=arch, task=task, out=out, recipe=recipe, options=attention, arithmetic=arithmetic, device=device,
        given_batch=given_batch, workers=workers(flags.pop("workers"), device), minutes=flags.pop("checkpoint_minutes"),
        command=_running.command(), **flags)
    if dry_run:
        job.look(training, _printing.say)
        rows = [(name, str(getattr(recipe, name)), text) for name, _, _, text in options.describe(type(recipe))]
        title = f"The recipe of {arch} on {task.data}, not run."
        _printing.print_tables([_printing.listing(title, ("key", "value", "what"), rows)], form)
        return 0
    with Watcher(distributed.is_leader(), task.word, task.scores[0]) as watch:
        epochs = job.train(training, watch)
    if epochs:
        _presenting.print_records(epochs, form, "", _presenting.choose(("train",), None, plot=False))
        _printing.say(f"Run: {out}")
    return 0


def slug(text: str) -> str:
    """A name that a folder can have."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text).strip("-")


def parsed(arch: str) -> tuple[str, str]:
    """Attention and variant of an arch; of a timm model neither."""
    if arch.startswith(_PEER):
        return "", ""
    from softbench.models.variants import parse

    return parse(arch)


def amp(name: str, device: str) -> str:
    """The dtype that `--amp` comes to on a device."""
    if name != "auto":
        return name
    return BFLOAT16 if is_gpu(device) else "none"


def workers(count: int | None, device: str) -> int:
    """The number that `--workers` comes to on a device."""
    return count if count is not None else 4 if is_gpu(device) else 0
