"""Orders of samples that depend on (seed, epoch) alone, dealt out to processes: the same for any number of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from softbench.inputs import seeding

PADDING = -1  # index of a place that only fills up a batch
EVALUATION = -1  # epoch of samples that are not augmented

Key = tuple[int, int]  # epoch, index


class Order(Sampler[list[Key]]):
    """The micro-batches of one process, from any step of any epoch on.

    An epoch is a permutation; what is left after the last whole total batch is not seen in it. A total batch is cut
    into micro-batches, which the processes take in turn: micro-batch j goes to process j mod world. One process that
    accumulates two micro-batches thus computes what two processes do with one each.
    """

    def __init__(self, samples: int, batch: int, accumulate: int, rank: int, world: int, seed: int) -> None:
        self.samples, self.batch, self.accumulate, self.rank, self.world = samples, batch, accumulate, rank, world
        self.seed, self.epoch, self.step = seed, 0, 0
        self.steps = samples // (batch * accumulate * world)

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(seeding.derived(self.seed, seeding.ORDER, self.epoch))
        order = torch.randperm(self.samples, generator=generator)
        for step in range(self.step, self.steps):
            for turn in range(self.accumulate):
                number = (step * self.accumulate + turn) * self.world + self.rank
                part = order[number * self.batch:(number + 1) * self.batch]
                yield [(self.epoch, place) for place in part.tolist()]

    def __len__(self) -> int:
        return (self.steps - self.step) * self.accumulate


class Shard(Sampler[list[Key]]):
    """Every sample once over all processes, which all get the same number of batches: padding fills the last one up."""

    def __init__(self, samples: int, batch: int, rank: int, world: int) -> None:
        own = list(range(rank, samples, world))
        own += [PADDING] * (-(-samples // world) - len(own))
        self.batches = [[(EVALUATION, place) for place in own[start:start + batch]]
                        for start in range(0, len(own), batch)]

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)
