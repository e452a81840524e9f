"""The kinds of device that softbench measures on, by name alone, for whatever must start without torch."""

from __future__ import annotations

from softbench.errors import Unsupported

CPU, GPU = KINDS = ("cpu", "cuda")
_SHAPES_ONLY = "meta"  # where tensors hold no numbers, and nothing is computed


def kind(device: object) -> str:
    """The name of the kind of device, "cpu", "cuda" or "meta".

    Raises:
        Unsupported: it is another, on which nothing here would be measured rightly.
    """
    name: str = getattr(device, "type", "") or str(device).partition(":")[0]
    if name not in (*KINDS, _SHAPES_ONLY):
        raise Unsupported(f"softbench measures on {' and '.join(KINDS)}, not on {name}, whose work it cannot wait for:"
                          f" use {CPU}")
    return name


def is_gpu(device: object) -> bool:
    """True where it is a GPU. Raises Unsupported for a device that is neither a GPU nor a CPU."""
    return kind(device) == GPU


def was_gpu(device: object) -> bool:
    """True where the device that a record names, which may be none, was a GPU."""
    return str(device).startswith(GPU)
