"""The variants of the pyramid as a table, and the options that each attention gets in its stages. No torch here.

Sources: Lu et al., SOFT, NeurIPS 2021 (arXiv 2110.11945), Table 1, for tiny to large; the official code for huge, for
small with 20 blocks in its third stage (`small_d20`), and for the 288 and 352 channels of medium and huge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from softbench import plugins
from softbench.errors import UsageError, hint

STAGES = 4
IMAGE = 224  # side of the published images, in pixels
PATCHES = (4, 8, 16, 32)  # pixels of a token's side in each stage


@dataclass(frozen=True)
class Variant:
    """One size of the pyramid; each tuple has an entry a stage. All heads have 32 channels."""

    dims: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


VARIANTS: dict[str, Variant] = {
    "tiny": Variant((64, 128, 320, 512), (2, 4, 10, 16), (1, 2, 3, 2)),
    "small": Variant((64, 128, 320, 512), (2, 4, 10, 16), (1, 3, 7, 4)),
    "small_d20": Variant((64, 128, 320, 512), (2, 4, 10, 16), (1, 3, 20, 4)),
    "medium": Variant((64, 128, 288, 512), (2, 4, 9, 16), (1, 3, 29, 5)),
    "large": Variant((64, 128, 320, 512), (2, 4, 10, 16), (1, 3, 40, 5)),
    "huge": Variant((64, 128, 352, 512), (2, 4, 11, 16), (1, 5, 49, 5)),
}


def grid(image: tuple[int, int], stage: int) -> tuple[int, int]:
    """Rows and columns of tokens in a stage, counted from 0: each downsampling rounds up."""
    return -(-image[0] // PATCHES[stage]), -(-image[1] // PATCHES[stage])


def stage_options(attention: str, stage: int) -> dict[str, Any]:
    """Options of an attention in a stage (0 to 2) where they differ from its own defaults: its file's `PYRAMID`."""
    chosen = plugins.facts("attention", attention).get("PYRAMID", {})
    return {name: value[stage] if isinstance(value, tuple) else value for name, value in chosen.items()}


def official_options(attention: str) -> dict[str, Any]:
    """The options that make an attention what its authors' code computes: its file's `OFFICIAL`.

    Raises:
        UsageError: an attention without.
    """
    official = plugins.facts("attention", attention).get("OFFICIAL")
    if official is None:
        there = " and ".join(n for n in plugins.names("attention") if "OFFICIAL" in plugins.facts("attention", n))
        raise UsageError(f"official=True is for {there}, whose weights exist, not for {attention}.")
    return dict(official)


def parse(arch: str) -> tuple[str, str]:
    """The attention and the variant that an arch names: `soft-norm-tiny` -> ("soft_norm", "tiny").

    Dashes and underscores are alike; the attention may be the path of a file, as in `./mine.py-tiny`.

    Raises:
        UsageError: no such variant or attention; says which there are.
    """
    sizes = "|".join(sorted((name.replace("_", "[-_]") for name in VARIANTS), key=len, reverse=True))
    match = re.fullmatch(rf"(.+)[-_]({sizes})", arch.strip())
    if match and plugins.is_path(match[1]):
        return match[1], match[2].replace("-", "_")
    attention = match[1].replace("-", "_") if match else ""
    if not match or attention not in _seeing_all():
        advice = (f"An arch is an attention ({', '.join(map(_dashed, _seeing_all()))}, or a file) and a"
                  f" variant ({', '.join(map(_dashed, VARIANTS))}), as in soft-tiny.")
        raise UsageError(f"No arch named '{arch}'. {hint(_dashed(arch), archs(), advice)}")
    return attention, match[2].replace("-", "_")


def archs() -> list[str]:
    """Every arch that `parse` knows by name, as the command line spells them."""
    return [f"{_dashed(attention)}-{_dashed(variant)}"
            for attention in _seeing_all() for variant in VARIANTS]


def _seeing_all() -> list[str]:
    """The attentions that images can have: not those that are causal alone."""
    return [name for name in plugins.names("attention") if plugins.facts("attention", name).get("CAUSAL") != "always"]


def _dashed(name: str) -> str:
    return name.replace("_", "-")
