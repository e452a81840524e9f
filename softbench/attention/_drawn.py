"""Modules whose result follows from a seed: the state_dict has the seed, so that loading it gives the same result.

All that is drawn (landmarks, rotations, blocks) follows from the seed by torch's generator of the CPU, at any number of
tokens, on any device. A state_dict of an earlier version has no seed: the module then keeps its own. Random projections
that fit any number of tokens (`performer`, `rfa`) are in the state_dict themselves.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn


class Drawn(nn.Module):
    """A module with a seed, or None where nothing is drawn; what it has drawn is in buffers that are not saved."""

    seed: int | None

    @abstractmethod
    def redraw(self) -> None:
        """Draw the buffers anew, where they are."""

    def _apply(self, fn: Any, recurse: bool = True) -> Self:  # every .to() comes through here, and to_empty()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.redraw()  # which leaves in a buffer what was in memory
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.seed is not None:
            destination[f"{prefix}seed"] = torch.tensor(self.seed, device="cpu")

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, strict: bool,
                              missing: list[str], unexpected: list[str], errors: list[str]) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        key = f"{prefix}seed"
        if self.seed is None or key not in state_dict:
            return
        self.seed = int(state_dict[key])
        self.redraw()
        if key in unexpected:
            unexpected.remove(key)
