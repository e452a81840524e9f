"""Small training jobs, run here or in child processes that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from softbench.errors import SoftbenchError
from softbench.records import Record
from softbench.tasks.images.lesson import ImageTask
from softbench.tasks.images.recipe import DIGITS, Recipe, changed
from softbench.tasks.images.weights import Weights
from softbench.training import job as jobs
from softbench.training.job import Job
from softbench.training.position import Position
from softbench.training.scoring import Scoring

# Batch norm and stochastic depth are in it, yet it is small: 0.1 M parameters.
ARCH = "timm:test_efficientnet"


class Watch:
    """Keeps what it is told; `at` is called with each position."""

    def __init__(self, at: Callable[[Position], None] = lambda position: None) -> None:
        self.at = at
        self.said: list[str] = []
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.epochs: list[dict[str, float]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, position: Position, steps: int, epochs: int, loss: float, lr: float, speed: float) -> None:
        self.losses.append(loss)
        self.rates.append(lr)
        self.at(position)

    def epoch(self, number: int, epochs: int, numbers: dict[str, float]) -> None:
        self.epochs.append(numbers)


def recipe(**changes: Any) -> Recipe:
    """Two epochs of three steps of 32 digits, two micro-batches each, with all the augmentation of the paper."""
    small = {"epochs": 2, "total_batch": 32, "batch": 16, "drop_path": 0.2, "mixup": 0.8, "cutmix": 1.0,
             "augment": "rand-m9-mstd0.5-inc1", "erasing": 0.5, "warmup_epochs": 0, "hflip": 0.5}
    return changed(DIGITS, small | changes)


def job(out: Path, **changes: Any) -> Job:
    """A job of that recipe; keys of the recipe, of the images and of the job alike."""
    own = {"arch": ARCH, "threads": 1} | taken(changes, Job)
    images = ImageTask(**{"data": "digits", "limit": 100} | taken(changes, ImageTask))
    return Job(task=images, out=out, recipe=recipe(**changes), **own)


def scoring(checkpoint: Path, **changes: Any) -> Scoring:
    """A score over 100 digits; keys of the weights, of the images and of the scoring alike."""
    images = ImageTask(**{"data": "digits", "limit": 100} | taken(changes, ImageTask))
    weights = Weights(checkpoint, images, **taken(changes, Weights))
    return Scoring(weights, images, **{"threads": 1} | changes)


def taken(changes: dict[str, Any], of: type) -> dict[str, Any]:
    """Those of the changes that are fields of a class, which are taken out of them."""
    return {key: changes.pop(key) for key in list(changes) if key in of.__dataclass_fields__}


def train(asked: Job, watch: Watch | None = None) -> list[Record]:
    """The job in this process."""
    return jobs.train(asked, watch or Watch())


def start(asked: Job, *, end: str = "", at: int = -1, rank: int = 0, world: int = 1, port: int = 0) -> Any:
    """The job in a child process, which ends itself after update `at`: by a signal ("KILL", "TERM", "INT")."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["softbench.training.job", "torch.distributed.fsdp"])
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, asked, end, at, rank, world, port))
    child.start()
    theirs.close()
    child.answer = ours
    return child


def join(child: Any, seconds: float = 60) -> tuple[int, Any]:
    """Exit code of a child, and what it sent: its losses, or the text of its error."""
    answer = None
    try:
        if child.answer.poll(seconds):
            answer = child.answer.recv()
    except (EOFError, ConnectionError):
        pass
    child.join(seconds)
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode, answer


def run(asked: Job, **how: Any) -> tuple[int, Any]:
    """The job in a child process, to its end."""
    return join(start(asked, **how))


def together(asked: Job, world: int = 2, **how: Any) -> list[tuple[int, Any]]:
    """The job in several processes that train together; what each gave."""
    port = free_port()
    children = [start(asked, rank=rank, world=world, port=port, **how) for rank in range(world)]
    return [join(child) for child in children]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def weights(out: Path, step: int | None = None) -> dict[str, Any]:
    """The last checkpoint of a run, or that of a step."""
    found = (out / "checkpoints").glob("step-*.pt" if step is None else f"step-{step:08d}-*.pt")
    return torch.load(max(found, key=lambda path: path.stat().st_mtime_ns), weights_only=True)


def equal(one: Any, other: Any) -> bool:
    """Whether nested states are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def _child(pipe: Any, asked: Job, end: str, at: int, rank: int, world: int, port: int) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1"}
    if world > 1:
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank),
                       "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def stop(position: Position) -> None:
        if position.updates == at:
            os.kill(os.getpid(), getattr(signal, f"SIG{end}"))

    watch = Watch(stop if end else lambda position: None)
    try:
        jobs.train(asked, watch)
        pipe.send({"losses": watch.losses, "epochs": watch.epochs, "said": watch.said})
    except SoftbenchError as error:
        pipe.send(str(error))
        sys.exit(error.exit_code)
    except SystemExit:
        pipe.send(None)
        raise
    except BaseException:
        pipe.send(traceback.format_exc())
        sys.exit(99)
