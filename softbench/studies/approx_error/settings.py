"""`softbench approx-error` can be asked this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from softbench.options import option


@dataclass(frozen=True)
class Settings:
    attn: str = option("soft,soft_norm,performer,nystromformer,linformer", "attentions, as in --attn of the measures")
    sizes: str = option("16,49,144", "numbers m of landmarks, features or projected tokens")
    samplings: str = option("avg,conv,random,first,strided,kmeans,rpcholesky",
                            "ways to choose landmarks, compared at the middle m for the first attention that has them;"
                            " none")
    inputs: str = option("structured,image,normal", "families of inputs, as in --inputs of the measures, and"
                         " checkpoint:PATH@stage2: q, k, v inside a backbone")
    tokens: str = option("1k", "numbers of tokens N, as in --tokens of the measures")
    heads: int = option(2, "heads", low=1, high=1024)
    head_dim: int = option(64, "size of a head D", low=1, high=4096)
    seeds: int = option(6, "samples, each with its own inputs and random features", low=1, high=1000)
    seed: int = option(0, "the first seed", low=0, high=2**31 - 2000)
    topk: int = option(10, "largest entries of a row that an estimate should find", low=1, high=1024)
    against: Literal["own", "softmax", "gaussian"] = option(
        "own", "own: what each attention estimates; else the exact attention that all are compared with")
    target_error: float = option(0.0, "0, or the error_matrix_fro for which the smallest m is searched", low=0, high=10)
    cost: bool = option(True, "measure latency and memory too")
