"""`softbench pinv` can be asked this."""

from __future__ import annotations

from dataclasses import dataclass

from softbench.dtypes import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from softbench.options import option

PARTS = ("inverse", "condition", "speed", "cost", "leak")


@dataclass(frozen=True)
class Settings:
    methods: str = option("newton,newton_ci,hyperpower,nystromformer,scaled_newton,cholesky,eigh",
                          "ways to invert, comma-separated")
    matrices: str = option("normal:1,smooth:1,smooth:0.5,clustered:0.5,constant,image,duplicate:24",
                           "families of matrices, also gelu:S, condition:K, image:PATH, backbone:stage1 to stage4 and"
                           " checkpoint:PATH@stage2")
    ridge: str = option("0.01,0", "added to the diagonal, comma-separated")
    dtype: str = option(FLOAT32, "dtypes of storage and arithmetic, comma-separated")
    size: int = option(49, "m, rows of a matrix", low=1, high=2048)
    head_dim: int = option(32, "dimension of the landmarks", low=1, high=4096)
    count: int = option(16, "matrices of each family", low=1, high=4096)
    iterations: int = option(20, "steps after which the residuals are read", low=1, high=1000)
    max_iterations: int = option(60, "steps that the course is followed for", low=1, high=1000)
    tolerance: float = option(1e-3, "residual from which on an inverse has converged", low=1e-15, high=1)
    conditions: str = option("2,10,100,1000,5000,100000", "condition numbers of the part `condition`")
    condition_dtypes: str = option(",".join((FLOAT64, FLOAT32, FLOAT16, BFLOAT16)), "dtypes of the part `condition`")
    steps: str = option("5,10,20", "steps timed in the part `speed`")
    rep: float = option(20.0, "ms of timed work for each point", unit="ms", low=0.1, high=60_000)
    parts: str = option(",".join(PARTS), "which parts to run")
    seed: int = option(0, "of the matrices", low=0)
