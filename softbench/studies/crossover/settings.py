"""`softbench crossover` can be asked this."""

from __future__ import annotations

from dataclasses import dataclass

from softbench import dtypes
from softbench.options import option

COMPARED = ("latency", "memory", "flops")


@dataclass(frozen=True)
class Settings:
    attn: str = option("soft,performer,nystromformer,linformer", "attentions, as in --attn of the measures")
    baseline: str = option("softmax", "the attention that they are compared with")
    quantities: str = option("latency,memory,flops", "what is compared")
    mode: str = option("forward,training", "forward, backward, training (which is forward_backward)")
    dtype: str = option(dtypes.FLOAT32, dtypes.LISTED)
    heads: int = option(8, "heads", low=1, high=1024)
    head_dim: str = option("64", "sizes of a head D")
    causal: bool = option(False, "a token sees itself and those before it: both sides in their causal form")
    batch: int = option(1, "batch size", low=1, high=65536)
    min_tokens: str = option("64", "the shortest length; k means 1,024")
    max_tokens: str = option("16k", "the longest length")
    budget: float = option(600.0, "seconds that the whole command may take", unit="s", low=1, high=10_000_000)
    scan: int = option(5, "lengths of the scan before bisection", low=2, high=64)
    rounds: int = option(4, "rounds before the first look at a comparison of latency", low=2, high=1000)
    max_rounds: int = option(16, "the most rounds", low=2, high=10_000)
    processes: int = option(5, "processes that N* of latency is taken from", low=1, high=100)
    rep: float = option(20.0, "ms of timed work of each side in a round", unit="ms", low=0.1, high=60_000)
    margin: float = option(0.02, "difference that is too small to go on for, in parts of one", low=0, high=1)
    resolution: float = option(0.1, "width of a bracket that is narrow enough, in parts of one", low=0.001, high=1)
    device: str = option("auto", "cpu, cuda, cuda:1; auto takes a GPU if there is one")
    seed: int = option(0, "of inputs and parameters", low=0, high=2**31 - 1)
