"""Anticipates a model's cost before it is run: one forward of one image on torch's meta device, shapes alone.

It fills `--dry-run`, orders the progress bar, and stops what cannot fit into memory. It is no measurement.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from softbench.errors import Unsupported
from softbench.plugins.contained import contained


@dataclass(frozen=True)
class Anticipated:
    """The cost of one image.

    Attributes:
        flops: of the whole model; by_module: of each of its modules, by name.
        peak: numbers held at once; made: numbers made in all, of which training keeps a part. Without parameters.
        parameters: how many the model has.
    """

    flops: float
    by_module: dict[str, float]
    peak: float
    made: float
    parameters: int


def anticipate(model: nn.Module, image: tuple[int, int]) -> Anticipated:
    """The cost of a model on the meta device.

    Raises:
        Unsupported: the model does not run without numbers, or not at that size.
    """
    held, counter = _Held(), FlopCounterMode(display=False)
    try:
        with contained(), torch.no_grad(), held, counter:
            model(torch.empty(1, 3, *image, device="meta"))
    except Exception as error:
        raise Unsupported(f"its cost cannot be told in advance ({type(error).__name__})") from error
    prefix = f"{type(model).__name__}."
    counts = {name: float(sum(operators.values())) for name, operators in counter.get_flop_counts().items()}
    return Anticipated(
        counts.pop("Global", 0.0), {name.removeprefix(prefix): flops for name, flops in counts.items()}, held.peak,
        held.made, sum(p.numel() for p in model.parameters()))


class _Held(TorchDispatchMode):
    """Counts the numbers in storages that operators made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.made = 0
        self.alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, Tensor) else None
            if storage is None or id(storage) in before or storage in self.alive:
                continue
            numbers = storage.nbytes() // tensor.element_size()
            self.alive.add(storage)
            weakref.finalize(storage, self._free, numbers)
            self.now += numbers
            self.made += numbers
            self.peak = max(self.peak, self.now)
        return result

    def _free(self, numbers: int) -> None:
        self.now -= numbers
