"""Dtypes: one table of what is known of each, by the names that torch has for them too; torch is imported on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

NAMES = FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = ("float32", "bfloat16", "float16", "float64")
LISTED = ", ".join(NAMES)


@dataclass(frozen=True)
class Dtype:
    """One dtype, and all that is known of it.

    Attributes:
        bytes: of one number.
        tolerance: the largest relative Frobenius distance from the same subject in float64 that still counts as the
            right answer. The inverse of a nearly singular kernel of landmarks costs float32 up to five of its seven
            digits.
        rounding: changes of a study's results up to this are rounding, which half precision does in float32.
        sums: the dtype in which sums and kernels are computed.
        kernels: whether the Triton kernels take it.
    """

    bytes: int
    tolerance: float
    rounding: float = 1e-6
    sums: str = FLOAT32
    kernels: bool = True


TABLE = {
    FLOAT32: Dtype(4, 1e-2),
    FLOAT16: Dtype(2, 3e-2),
    BFLOAT16: Dtype(2, 1e-1),
    FLOAT64: Dtype(8, 1e-8, rounding=1e-14, sums=FLOAT64, kernels=False),
}
HALF = tuple(name for name, dtype in TABLE.items() if dtype.sums != name)


def of(name: str) -> torch.dtype:
    """torch's own dtype of that name."""
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def name_of(kind: torch.dtype | torch.layout) -> str:
    """`bfloat16`, `sparse_coo`: the name that torch has for it."""
    return str(kind).removeprefix("torch.")


def tolerance(name: str, tf32: bool = False) -> float:
    """The relative error allowed of a result; float32 products taken as TF32 have the digits of float16."""
    return TABLE[FLOAT16 if tf32 and name == FLOAT32 else name].tolerance


def rounding(name: str | None) -> float:
    """How much of a study's result may be rounding; without a dtype, as much as in float32."""
    return TABLE.get(name or "", TABLE[FLOAT32]).rounding
