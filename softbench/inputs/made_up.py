"""Families: made-up q, k, v whose attention matrices are easy or hard to approximate, each with one parameter.

Every family has independent normal v, and q, k [B, H, N, D] with entries of size about 1. With e, e' ~ N(0, 1)
independent for each token and c_s ~ N(0, 1) shared by all tokens of group s, of q and of k, in one head:

- `normal`: q = e, k = e'. Far apart in many dimensions, such tokens attend to themselves or to everything.
- `structured[:alpha]` (0.75): q = alpha c_s + e / 2, k = alpha c_s + e' / 2. The groups are 32 regions of the token
  grid, cells around random tokens; alpha = 0 leaves noise, and larger alpha attention within the regions.
- `clustered[:groups]` (16): the same with alpha = 1 and groups scattered over the grid, so that no pooling finds them.
- `lowrank[:rank]` (8): q and k in one subspace of that dimension.
- `peaky[:temperature]` (0.25): `normal` with the logits divided by the temperature.
- `outliers[:factor]` (10): `normal` with every hundredth token that many times as long, as in trained transformers.
- `constant`: all tokens of a head are one token, as in a blank image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from softbench.case import Shape
from softbench.errors import UsageError

_REGIONS = 32
_OUTLIER_EVERY = 100

Make = Callable[[Shape, float, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Family:
    """How q and k are made, and the parameter: its default and bounds; `whole` where it is a count."""

    make: Make
    parameter: str = ""
    default: float = 0.0
    low: float = 0.0
    high: float = 1e6
    whole: bool = False


def parse(text: str) -> tuple[Family, float]:
    """`structured:0.5` -> the family and its parameter.

    Raises:
        UsageError: a parameter that is no number, out of bounds, or not wanted.
    """
    name, colon, rest = text.partition(":")
    family = FAMILIES[name]
    if not colon:
        return family, family.default
    if not family.parameter:
        raise UsageError(f"--inputs {name} takes nothing after a colon, not '{rest}'.")
    try:
        value = float(rest)
    except ValueError:
        value = float("nan")
    if not family.low <= value <= family.high or (family.whole and value != int(value)):
        kind = "a whole number" if family.whole else "a number"
        raise UsageError(f"--inputs {name}: the {family.parameter} must be {kind} from {family.low:g} to"
                         f" {family.high:g}, not '{rest}'.")
    return family, value


def tokens(text: str, shape: Shape, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [B, H, N, D] in float32 of one of these families."""
    family, parameter = parse(text)
    q, k = family.make(shape, parameter, generator)
    return q, k, _normal(shape, generator)


def _normal(shape: Shape, generator: torch.Generator, tokens: int = 0, width: int = 0) -> Tensor:
    """[B, H, N, D], or with other numbers of tokens and entries."""
    return torch.randn(shape.batch, shape.heads, tokens or shape.tokens, width or shape.head_dim, generator=generator,
                       dtype=torch.float32)


def _independent(shape: Shape, parameter: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return _normal(shape, generator), _normal(shape, generator)


def _structured(shape: Shape, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    place = torch.stack(torch.meshgrid(torch.arange(shape.rows), torch.arange(shape.cols), indexing="ij"), -1)
    place = place.view(-1, 2).float()  # [N, 2]
    seeds = place[torch.randperm(shape.tokens, generator=generator)[:_REGIONS]]
    return _grouped(shape, torch.cdist(place, seeds).argmin(1), alpha, generator)


def _clustered(shape: Shape, groups: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return _grouped(shape, torch.randint(int(groups), (shape.tokens,), generator=generator), 1.0, generator)


def _grouped(shape: Shape, group: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    centres = _normal(shape, generator, tokens=int(group.max()) + 1)
    common = alpha * centres[:, :, group]  # [B, H, N, D]
    return common + _normal(shape, generator) / 2, common + _normal(shape, generator) / 2


def _lowrank(shape: Shape, rank: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    basis = _normal(shape, generator, tokens=int(rank)) / rank**0.5  # [B, H, rank, D]
    q, k = (_normal(shape, generator, width=int(rank)) @ basis for _ in range(2))
    return q, k


def _peaky(shape: Shape, temperature: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return _normal(shape, generator) / temperature**0.5, _normal(shape, generator) / temperature**0.5


def _outliers(shape: Shape, factor: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    far = torch.randperm(shape.tokens, generator=generator)[: -(-shape.tokens // _OUTLIER_EVERY)]
    length = torch.ones(shape.tokens, 1, dtype=torch.float32).index_fill_(0, far, factor)
    return _normal(shape, generator) * length, _normal(shape, generator) * length


def _constant(shape: Shape, parameter: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    same = _normal(shape, generator, tokens=1).expand(-1, -1, shape.tokens, -1).contiguous()
    return same, same.clone()


FAMILIES = {
    "normal": Family(_independent),
    "structured": Family(_structured, "strength alpha", 0.75, 0, 1000),
    "clustered": Family(_clustered, "number of groups", 16, 1, 65536, whole=True),
    "lowrank": Family(_lowrank, "rank", 8, 1, 4096, whole=True),
    "peaky": Family(_peaky, "temperature", 0.25, 1e-4, 1e4),
    "outliers": Family(_outliers, "factor", 10, 0, 1e5),
    "constant": Family(_constant),
}
