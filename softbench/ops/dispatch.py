"""Which implementation of an operation runs, and why another cannot.

An explicit name runs or raises. "auto" is the Triton kernels on a CUDA device where they can run, and plain torch
elsewhere. Triton's interpreter (TRITON_INTERPRET=1) runs the kernels on a CPU, for tests: only when they are asked for
by name, as it is slow.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable

import torch

from softbench import dtypes
from softbench.dtypes import name_of
from softbench.errors import Unsupported
from softbench.machine.device import incapable

IMPLS = ("triton", "eager", "reference")  # fastest first
TRITON_DTYPES = tuple(dtypes.of(name) for name, dtype in dtypes.TABLE.items() if dtype.kernels)
_BFLOAT16 = dtypes.of(dtypes.BFLOAT16)
_INSTALLED = importlib.util.find_spec("triton") is not None


def resolve(operation: str, impl: str, device: torch.device, lacks: Callable[[], str]) -> str:
    """The name of the implementation that runs on `device`.

    Args:
        lacks: tells why the Triton kernels cannot take these inputs ("" where they can); asked only when it matters.

    Raises:
        Unsupported: no implementation of that name, or one that cannot run here.
    """
    if impl == "auto":
        return "triton" if device.type == "cuda" and not lacks() else "eager"
    if impl not in IMPLS:
        raise Unsupported(f"{operation} has no implementation '{impl}'; it has {', '.join(IMPLS)}")
    if impl == "triton" and (reason := lacks()):
        raise Unsupported(f"{operation} cannot run as triton: {reason}; use impl=eager")
    return impl


def triton_lacks(device: str, *kinds: torch.dtype) -> str:
    """Why Triton kernels cannot run on this type of device with these dtypes; "" where they can.

    On the meta device they can wherever triton is installed, as nothing is computed there.
    """
    if not _INSTALLED:
        return "the package triton is not installed"
    for kind in kinds:
        if kind not in TRITON_DTYPES:
            return f"{name_of(kind)} is none of {', '.join(map(name_of, TRITON_DTYPES))}"
    if device == "meta":
        return ""
    if device == "cuda" and torch.version.hip is None:
        return _gpu_lacks()
    if device != "cpu" or not interpreted():
        return f"it needs an NVIDIA GPU, and the device is {device}"
    return "Triton's interpreter multiplies bfloat16 wrongly" if _BFLOAT16 in kinds else ""


def register(impl: str) -> None:
    """Tell torch of the operators behind an implementation.

    A FLOP counter knows those that there were when it was opened; the others it would silently count as 0.
    """
    if impl == "triton" and _INSTALLED:
        for operation in ("average_pool", "gaussian_attention", "pseudo_inverse"):
            importlib.import_module(f"softbench.ops.{operation}.triton")


def interpreted() -> bool:
    """True where kernels are run by Triton's interpreter; triton reads the same variable when it sees a kernel."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def _gpu_lacks() -> str:
    return _seen_gpu_lacks()


# What torch.compiler.assume_constant_result does, without importing torch._dynamo, which takes longer than torch.
_gpu_lacks._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _seen_gpu_lacks() -> str:
    return incapable(8)
