"""Scoring a checkpoint: ours, official weights, or a timm model's state dict, over a validation split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from softbench import models
from softbench import options as opts
from softbench.case import ModelSpec
from softbench.config import Process
from softbench.dtypes import FLOAT32
from softbench.errors import UsageError
from softbench.machine import environment
from softbench.machine.device import is_gpu
from softbench.models import checkpoints
from softbench.models.checkpoints import Trained
from softbench.processes import setup
from softbench.processes.stopping import Asked, Stop
from softbench.records import Record
from softbench.training import data, distributed, fingerprint, journal
from softbench.training.badimages import BadImages
from softbench.training.distributed import Group
from softbench.training.evaluate import evaluate
from softbench.training.learner import autocast
from softbench.training.plan import data_name
from softbench.training.position import Position
from softbench.training.preparing import Prepared
from softbench.training.recipe import Recipe, row
from softbench.training.sources import open_source
from softbench.training.views import EVAL

_NO_SCORE = "Stopped before the last image: there is no score."
_HEADS = ("head.weight", "head.bias", "fc.weight", "classifier.weight", "head.fc.weight")


@dataclass(frozen=True)
class Scoring:
    """What is asked for.

    Attributes:
        arch: "" takes that of a checkpoint of ours.
        weights: "best" takes what scored best in training, or what is there; "ema", "model".
        img_size, crop, interpolation, mean, std: see `Prepared`; what is not given is that of training here, or timm's
            own for its weights.
        out: folder for the names of bad images.
    """

    checkpoint: Path
    data: str
    arch: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    weights: str = "best"
    img_size: int | None = None
    crop: float | None = None
    interpolation: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch: int = 128
    device: str = "cpu"
    amp: str = "none"
    workers: int = 0
    threads: int = 0
    limit: int | None = None
    class_map: str = ""
    splits: tuple[str, str] = ("train", "validation")
    max_bad: int = 100
    out: Path = Path()
    command: str = ""


def score(asked: Scoring, say: Callable[[str], None] = lambda text: None) -> list[Record]:
    """The records of an evaluation; on processes other than the first, none.

    Args:
        say: told how images are prepared, and what went wrong beside the score.
    Raises:
        ResultsError: the checkpoint cannot be read. UsageError: it does not fit the arch or the data.
    """
    state = setup.apply(Process(threads=asked.threads or distributed.threads_each()))
    with ExitStack() as stack:
        group = stack.enter_context(distributed.processes(asked.device))
        stop = stack.enter_context(Stop(at_once=group.world == 1))
        stack.callback(data.end_workers)
        try:
            return _scored(asked, group, stop, state, say)
        except Asked as signal:
            raise Stop.error(signal.signal, _NO_SCORE) from None
    raise AssertionError("unreachable")


def _scored(asked: Scoring, group: Group, stop: Stop, state: dict[str, Any],
            say: Callable[[str], None]) -> list[Record]:
    with group.together():
        loaded = checkpoints.read(asked.checkpoint)
        said = checkpoints.trained(loaded, asked.checkpoint)
        said = said if said and said.run else None
        position = Position.read(loaded.get("position"), asked.checkpoint) if said else None
        arch, options, recipe = _subject(asked, said)
        model, weights = _model(asked, loaded, arch, options, recipe, position)
        prepared = _prepared(asked, model, recipe, by_timm=said is None and arch.startswith(models.PEER))
        source = open_source(asked.data, training=False, classes=_classes(model), class_map=asked.class_map,
                             splits=asked.splits, batch=asked.batch, names=said.names if said else None)
        for remark in (f"Evaluation: {prepared}", *source.remarks) if group.leads else ():
            say(remark)
        chosen = data.subset(source.val.size, asked.limit, recipe.seed)
        loader = data.evaluation_loader(
            source.val, prepared, batch=asked.batch, rank=group.rank, world=group.world, workers=asked.workers,
            pin=is_gpu(group.device), subset=chosen)
    model = model.to(group.device)
    scores = evaluate(model, loader, group, prepare=lambda batch: prepared.normalised(batch.images, group.device),
                      autocast=lambda: autocast(asked.amp, group.device),
                      stopped=lambda: stop.signal != 0, shared=source.val.stream is None)
    if scores is None:
        raise Stop.error(int(max(group.gathered(stop.signal))), _NO_SCORE)
    stop.hold()
    bad = BadImages(source.val, "val", asked.out, asked.max_bad, group, [], say)
    bad.note(scores.bad)
    if not group.leads:
        return []
    return journal.made(
        EVAL, {"top1": scores.top1, "top5": scores.top5, "loss": scores.loss,
               "images_per_second": scores.images / scores.seconds},
        spec=ModelSpec(arch, options), model=model, batch=asked.batch, image=prepared.size,
        dtype=FLOAT32 if asked.amp == "none" else asked.amp, device=group.device.type, seed=recipe.seed,
        coords={"data": data_name(asked.data), "weights": weights, "classes": source.classes,
                "images": scores.images, "checkpoint": asked.checkpoint.name,
                "digest": fingerprint.digest(fingerprint.of(source))},
        detail={"waited_share": scores.waited / scores.seconds, "bad_images": len(bad.known),
                "devices": group.world, "eval_crop": prepared.crop, "prepared": prepared.as_dict(),
                "trained": said.run if said else None, "epochs_done": position.epoch if position else None},
        environment=environment.take(state, str(group.device), asked.command))


def _subject(asked: Scoring, said: Trained | None) -> tuple[str, dict[str, Any], Recipe]:
    """The arch, its options and the recipe of a checkpoint, which says them itself where it is ours."""
    if said is None:
        if not asked.arch:
            raise UsageError(f"{asked.checkpoint} does not say what it is a checkpoint of: give --arch.")
        attention, variant = ("", "") if asked.arch.startswith(models.PEER) else models.parse(asked.arch)
        return asked.arch, asked.options, row(attention, variant, asked.data)
    if asked.arch and ModelSpec(asked.arch).display_name != said.run["arch"]:
        raise UsageError(f"{asked.checkpoint} is a checkpoint of {said.run['arch']}, not of {asked.arch}: leave out"
                         " --arch.")
    if asked.options and asked.options != said.options:
        raise UsageError(f"{asked.checkpoint} was trained with the attention options {said.options}, which stay:"
                         " leave out --set.")
    keys = {key: said.run[key] for key in opts.to_dict(Recipe()) if key in said.run}
    arch = asked.arch or said.registered(f"give --arch {said.arch}")
    return arch, said.options, opts.parse(Recipe, keys, f"{asked.checkpoint}")


def _model(asked: Scoring, loaded: Mapping[str, Any], arch: str, options: dict[str, Any], recipe: Recipe,
           position: Position | None) -> tuple[nn.Module, str]:
    """The model with the weights of a checkpoint, and which these are."""
    best = "state_dict" if asked.weights == "model" else "state_dict_ema"
    if asked.weights == "best" and position is not None:
        best = position.best.get("weights", best)
    averaged = best == "state_dict_ema"
    there = any(key in loaded for key in ("state_dict_ema", "model_ema"))
    if asked.weights == "ema" and not there:
        raise UsageError(f"{asked.checkpoint} holds no averaged weights: leave out --weights.")
    weights = checkpoints.unwrapped(loaded, ema=averaged)
    official = checkpoints.is_official(weights)
    classes = next((len(weights[name]) for name in _HEADS if name in weights and weights[name].dim()), None)
    if classes is None:
        raise UsageError(f"{asked.checkpoint} holds no classifier: it cannot be scored.")
    kind = "official" if official else "ema" if averaged and there else "model"
    if not arch.startswith(models.PEER):
        more: dict[str, Any] = {"official": True} if official else {"img_size": recipe.img_size}
        make = partial(models.create, arch, num_classes=classes, attn_options=options, **more)
        return checkpoints.pyramid(make, weights, asked.checkpoint), kind
    model = _peer(arch, classes, asked.img_size)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UsageError(f"{asked.checkpoint} does not fit {arch}: {reason}") from error
    return model, kind


def _peer(arch: str, classes: int, img_size: int | None) -> nn.Module:
    """A model of timm, for images of a size where it is built for one."""
    if img_size:
        try:
            return models.create(arch, num_classes=classes, img_size=img_size)
        except UsageError as error:
            if "does not take" not in str(error):
                raise
    return models.create(arch, num_classes=classes)


def _prepared(asked: Scoring, model: nn.Module, recipe: Recipe, by_timm: bool) -> Prepared:
    """How images are prepared: as the weights want it, but for what is asked for."""
    own = Prepared.by_timm(model) if by_timm else Prepared.by_recipe(recipe)
    size = (asked.img_size, asked.img_size) if asked.img_size else None
    given: dict[str, Any] = {"size": size, "crop": asked.crop, "interpolation": asked.interpolation, "mean": asked.mean,
             "std": asked.std}
    return replace(own, **{key: value for key, value in given.items() if value})


def _classes(model: nn.Module) -> int:
    return int(model.num_classes)  # type: ignore[arg-type]  # as timm's models all have
