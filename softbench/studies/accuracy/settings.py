"""`softbench accuracy` can be asked this."""

from __future__ import annotations

from dataclasses import dataclass

from softbench.options import option


@dataclass(frozen=True)
class Settings:
    task: str = option("mqar", "tasks to learn, as in mqar:pairs=16,pointer,./mine.py")
    attn: str = option("soft,performer,linear", "attentions, as in --attn of the measures")
    baseline: str = option("softmax", "the attention that others are compared with, which has to learn the task")
    lrs: str = option("1e-3,3e-3,1e-2", "learning rates, of which each attention gets the best on validation samples")
    seeds: int = option(5, "runs of each attention with weights and an order of their own, scored on test samples",
                        low=1, high=1000)
    max_seeds: int = option(0, "runs that an attention may have while its verdict is inconclusive, doubled from seeds"
                            " on; 0 for no more than these", low=0, high=1000)
    seed: int = option(0, "the seed of the runs that choose a learning rate; the others count on from it", low=0,
                       high=2**30)
    epochs: int = option(0, "passes over the training samples, the same for all; 0 for the task's own", low=0)
    budget: float = option(0.0, "seconds of training, the same for all, in place of the same number of steps; 0 for"
                           " none", unit="s", low=0, high=1e7)
    margin: float = option(0.01, "a difference in accuracy that matters", low=1e-6, high=1)
    width: int = option(64, "channels of a token", low=1, high=1 << 14)
    depth: int = option(2, "blocks", low=1, high=256)
    heads: int = option(2, "heads of each attention, a divisor of the width", low=1)
    mlp_ratio: float = option(2.0, "hidden over outer channels of the MLPs; 0 for none", low=0, high=16)
    conv: bool = option(True, "a depthwise convolution of width 3 in front of q, k and v")
    points: int = option(10, "points of a learning curve", low=0, high=1000)
    cost: bool = option(True, "measure latency and memory of each attention at the task's shape too")
    jobs: int = option(1, "runs at a time, each in a process of its own that gets its share of the threads", low=1,
                       high=256)
    device: str = option("cpu", "cpu, cuda; auto takes a GPU if there is one")
