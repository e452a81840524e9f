"""Scoring a checkpoint over a validation split, as training scores its epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from softbench.case import ModelSpec
from softbench.config import Process
from softbench.contracts.recipe import digest
from softbench.machine import environment
from softbench.models import checkpoints
from softbench.models.checkpoints import Trained
from softbench.processes import setup
from softbench.processes.stopping import Asked, Stop
from softbench.records import Record
from softbench.records.verbs import EVAL
from softbench.training import distributed, journal
from softbench.training.distributed import Group
from softbench.training.journal import Unreadable
from softbench.training.loop import evaluate
from softbench.training.position import Position
from softbench.training.task import Judged, Task

_NO_SCORE = "Stopped before the last sample: there is no score."


class Weights(Protocol):
    """A checkpoint, and which of its weights are to be scored on what."""

    @property
    def checkpoint(self) -> Path: ...

    def open(self, loaded: Mapping[str, Any], trained: Trained | None, best: str, *, batch: int, rank: int, world: int,
             workers: int, device: torch.device) -> tuple[nn.Module, ModelSpec, Judged, dict[str, Any]]:
        """The model, its name, the split, and what else records say: which `weights`, a `seed`, a `detail`.

        `best` is the key of the weights that scored best in training, as far as that is known.
        """


@dataclass(frozen=True)
class Scoring:
    """A score as it is asked for; `out` is the folder for the names of what cannot be read."""

    weights: Weights
    task: Task
    batch: int = 128
    device: str = "cpu"
    amp: str = "none"
    workers: int = 0
    threads: int = 0
    max_bad: int = 100
    out: Path = Path()
    command: str = ""


def score(scoring: Scoring, say: Callable[[str], None] = lambda text: None) -> list[Record]:
    """The records of an evaluation; on processes other than the first, none.

    Args:
        say: told how samples are prepared, and what went wrong beside the score.
    Raises:
        ResultsError: the checkpoint cannot be read. UsageError: it does not fit the arch or the data.
    """
    state = setup.apply(Process(threads=scoring.threads or distributed.threads_each()))
    with ExitStack() as stack:
        group = stack.enter_context(distributed.processes(scoring.device))
        stop = stack.enter_context(Stop(at_once=group.world == 1))
        try:
            return _scored(scoring, group, stop, stack, state, say)
        except Asked as asked:
            raise Stop.error(asked.signal, _NO_SCORE) from None
    raise AssertionError("unreachable")


def _scored(scoring: Scoring, group: Group, stop: Stop, stack: ExitStack, state: dict[str, Any],
            say: Callable[[str], None]) -> list[Record]:
    path, word = scoring.weights.checkpoint, scoring.task.word
    with group.together():
        loaded = checkpoints.read(path)
        trained = checkpoints.trained(loaded, path)
        trained = trained if trained and trained.run else None
        position = Position.read(loaded.get("position"), path) if trained else None
        model, spec, judged, more = scoring.weights.open(
            loaded, trained, position.best.get("weights", "") if position else "", batch=scoring.batch, rank=group.rank,
            world=group.world, workers=scoring.workers, device=group.device)
        stack.callback(judged.close)
        for remark in judged.remarks if group.leads else ():
            say(remark)
    model = model.to(group.device)
    scores = evaluate(model, judged, scoring.task.scores, group, amp=scoring.amp,
                      stopped=lambda: stop.signal != 0)
    if scores is None:
        raise Stop.error(int(max(group.gathered(stop.signal))), _NO_SCORE)
    stop.hold()
    bad = Unreadable(judged, "val", word, scoring.out, scoring.max_bad, group, [], say)
    bad.note(scores.bad)
    if not group.leads:
        return []
    return journal.made(
        EVAL, {**scores.means, f"{word}s_per_second": scores.answers / scores.seconds}, spec=spec, model=model,
        batch=scoring.batch, grid=judged.grid, amp=scoring.amp, device=group.device.type, seed=more["seed"],
        coords={"data": scoring.task.title, "weights": more["weights"],
                **judged.coords(scores.answers), "checkpoint": path.name,
                "digest": digest(judged.fingerprint)},
        detail={"waited_share": scores.waited / scores.seconds, f"bad_{word}s": len(bad.known), "devices": group.world,
                **more["detail"], "trained": trained.run if trained else None,
                "epochs_done": position.epoch if position else None},
        environment=environment.take(state, str(group.device), scoring.command))
