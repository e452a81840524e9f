"""Evaluation: top-1, top-5 and loss over a split, each image counted once over all processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softbench.errors import ResultsError, UsageError
from softbench.training.data import Batch, started
from softbench.training.distributed import Group


@dataclass(frozen=True)
class Scores:
    """Shares of correct images (top-5 is top-k of all classes where these are fewer than five) and the mean loss."""

    top1: float
    top5: float
    loss: float
    images: int
    seconds: float
    waited: float
    bad: list[int]


@torch.no_grad()
def evaluate(network: nn.Module, loader: Any, group: Group, *, prepare: Callable[[Batch], Tensor],
             autocast: Callable[[], AbstractContextManager[Any]], stopped: Callable[[], bool] = lambda: False,
             shared: bool = True) -> Scores | None:
    """The scores of a network, or None where a process was asked to stop in between.

    Args:
        shared: the processes have different images; otherwise each has all of them.
    Raises:
        ResultsError: not one image could be read. UsageError: a label that the network has no output for.
    """
    training = network.training
    network.eval()
    counts = torch.zeros(4, dtype=torch.float64, device=group.device)  # top-1, top-5, loss, images
    bad: list[int] = []
    begun, waited = time.perf_counter(), 0.0
    batches = started(loader)
    try:
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            waited += time.perf_counter() - asked
            if any(group.summed([float(stopped())])):
                return None
            if batch is None:
                break
            bad += batch.bad
            with autocast():
                logits = network(prepare(batch)).float()
            _check(batch, logits.shape[1])
            counts += _counted(logits, batch.labels.to(group.device))
    finally:
        network.train(training)
    numbers = counts.tolist()
    seconds = time.perf_counter() - begun
    if shared:
        numbers = group.summed(numbers)
        bad = [index for some in group.gathered(bad) for index in some]
    images = round(numbers[3])
    if not images:
        raise ResultsError("Not one image of the validation split could be read.")
    return Scores(numbers[0] / images, numbers[1] / images, numbers[2] / images, images, seconds, waited, bad)


def _counted(logits: Tensor, labels: Tensor) -> Tensor:
    """Numbers of top-1 and top-5 hits, the sum of losses and the number of images, without padding."""
    real = labels >= 0
    logits, labels = logits[real], labels[real]
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels.unsqueeze(1)  # [B, 5]
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    return torch.stack([ranked[:, 0].sum().double(), ranked.sum().double(), loss, real.sum().double()])


def _check(batch: Batch, classes: int) -> None:
    if int(batch.labels.max()) >= classes:
        raise UsageError(f"An image has the label {int(batch.labels.max())}, and the model has {classes} outputs: these"
                         " data are not those it is meant for.")
