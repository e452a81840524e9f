"""Studies of costs over N can all be asked this."""

from __future__ import annotations

from dataclasses import dataclass

from softbench import dtypes
from softbench.options import option


@dataclass(frozen=True)
class CostsOverN:
    """The attentions, and the points at which they run."""

    attn: str = option("softmax,soft,performer", "attentions, each name[:option=value...] or a .py file")
    mode: str = option("forward", "forward, backward, training (which is forward_backward), comma-separated")
    dtype: str = option(dtypes.FLOAT32, f"{dtypes.LISTED}, comma-separated")
    heads: int = option(8, "heads H", low=1, high=1024)
    head_dim: int = option(64, "size of a head D", low=1, high=4096)
    causal: bool = option(False, "a token sees itself and those before it: all attentions in their causal form")
    device: str = option("auto", "cpu, cuda, cuda:1; auto takes a GPU if there is one")
    impl: str = option("auto", "implementation; auto takes the first of each attention that runs here")
    seed: int = option(0, "seed of inputs and parameters", low=0, high=2**31 - 1)
