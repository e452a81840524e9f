"""The tables of SOFT's paper, as they were printed, each number with where it stands.

The paper is Lu et al., SOFT: Softmax-free Transformer with Linear Complexity, NeurIPS 2021 (arXiv 2110.11945). Its
"FLOPs" are multiply-adds; here they are FLOP, two each, as everywhere in softbench. Sizes are decimal, as printed.

How sure a number is, says `known`:
- `seen`: read in the source named.
- `derived`: follows from numbers that were seen, by the rule in its note.
- `recalled`: in the source by memory of those who wrote this table; not read again. Do not rely on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Known = Literal["seen", "derived", "recalled"]

IMAGE = 224  # side of its images, in pixels
IMAGENET = (1000, 50_000)  # classes and validation images that its accuracies are of

_SIZES = "NeurIPS 2021, ImageNet-1K table of the camera-ready"
_SIZES_NORM = "README of the official code, models with \"norm\" (SOFT++)"
_SHARE = ("memory over the images on each of eight GPUs, 32 of softmax-tiny and 128 of the others, as Table 4a has the"
          " 15.8GB of Table 2 for 128 images")
_NEWTON = {"inverse": "newton"}  # the paper's; that of softbench is another
_PEERS = "NeurIPS 2021, Table 2, linear attentions in the Tiny pyramid"
_SPEEDS = f"{_PEERS}, column of throughput"
_LANDMARKS = "NeurIPS 2021, Table 4a, bottleneck token sequence length"
_SAMPLING = "NeurIPS 2021, Table 4b, sampling of the bottleneck tokens"


@dataclass(frozen=True)
class Published:
    """One printed number. `value` is in SI units (a share for an accuracy), `printed` is its text."""

    quantity: str
    value: float
    unit: str
    printed: str
    source: str
    known: Known = "seen"
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One row of a table: a model of softbench, and what was published about it.

    Attributes:
        name: what the row is about: an arch, a number of landmarks, a sampling.
        arch: the arch that `softbench.models.create` builds in its place.
        options: the options of its attention in that row, beyond those of the pyramid.
        note: what sets the model here apart from that of the row.
    """

    name: str | int
    arch: str
    numbers: tuple[Published, ...]
    options: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def _size(millions: str, gmac: str, top1: str, source: str) -> tuple[Published, ...]:
    return _parameters(millions, source), _flops(gmac, source), _top1(top1, source)


def _parameters(millions: str, source: str) -> Published:
    return Published("parameters", 1e6 * float(millions), "1", f"{millions}M", source)


def _flops(gmac: str, source: str) -> Published:
    return Published("flops", 2e9 * float(gmac), "flop", f"{gmac}G", source)


def _top1(percent: str, source: str) -> Published:
    return Published("top1", float(percent) / 100, "1", percent, source)


def _memory(gigabytes: str, images: int, source: str) -> tuple[Published, Published]:
    """A printed size, and what it is for each image of a GPU's share of the batch."""
    value = 1e9 * float(gigabytes)
    each = value / images
    return (Published("memory", value, "B", f"{gigabytes}GB", source),
            Published("memory_per_image", each, "B", f"{each / 1e6:.0f}MB", source, "derived", _SHARE))


def _speeds(training: str, inference: str) -> tuple[Published, Published]:
    return (Published("throughput_training", float(training), "image/s", training, _SPEEDS, "recalled"),
            Published("throughput_inference", float(inference), "image/s", inference, _SPEEDS, "recalled"))


def _variants() -> tuple[Row, ...]:
    sizes = {"tiny": ("13", "1.9"), "small": ("24", "3.3"), "medium": ("45", "7.2"), "large": ("64", "11.0"),
             "huge": ("87", "16.3")}
    top1 = {"soft": ("79.3", "82.2", "82.9", "83.1", "83.3"), "soft-norm": ("79.4", "82.4", "83.1", "83.3", "83.4")}
    source = {"soft": _SIZES, "soft-norm": _SIZES_NORM}
    printed = [Row(f"{attention}-{variant}", f"{attention}-{variant}", _size(*size, best, source[attention]), _NEWTON)
               for attention, accuracies in top1.items()
               for (variant, size), best in zip(sizes.items(), accuracies, strict=True)]
    released = Row("soft-small-d20", "soft-small-d20", (), _NEWTON,
                   "soft-small as the official code builds it: 20 blocks in stage 3, where the paper has 7")
    return (*printed[:2], released, *printed[2:])


def _attentions() -> tuple[Row, ...]:
    """Transformer ran at a quarter of the others' batch, the largest that fitted."""
    def row(attention: str, memory: str, images: int, gmac: str, top1: str, speeds: tuple[str, str],
            options: dict[str, Any] | None = None, note: str = "") -> Row:
        arch = f"{attention}-tiny"
        numbers = (*_memory(memory, images, _PEERS), *_size("13", gmac, top1, _PEERS), *_speeds(*speeds))
        return Row(arch, arch, numbers, options or {}, note)

    return (
        row("softmax", "19.0", 32, "3.9", "79.1", ("1073", "3240")),
        row("linformer", "11.7", 128, "1.9", "78.2", ("2767", "3779"), note="a learned projection of tokens to 49; the"
            " paper's Linformer shrinks the token grid as PVT does"),
        row("performer", "15.0", 128, "2.2", "76.1", ("2037", "3657"), {"features": 128},
            "128 random features, which give the printed 2.2G; the paper does not say how many it took"),
        row("nystromformer", "17.2", 128, "2.0", "78.6", ("1891", "3518")),
        row("soft", "15.8", 128, "1.9", "79.3", ("1730", "3436"), _NEWTON),
    )


def _landmarks() -> tuple[Row, ...]:
    printed = [(36, "15.1", "1.9", "79.0"), (49, "15.8", "1.9", "79.3"), (64, "16.9", "2.0", "79.3"),
               (81, "18.5", "2.1", "78.9")]
    return tuple(Row(count, "soft-tiny", (*_memory(memory, 128, _LANDMARKS), _flops(gmac, _LANDMARKS),
                                          _top1(top1, _LANDMARKS)), {"landmarks": count, "sampling": "avg"} | _NEWTON)
                 for count, memory, gmac, top1 in printed)


def _sampling() -> tuple[Row, ...]:
    printed = [("conv", "13.07", "2.0", "79.3"), ("random", "12.96", "1.9", "79.3"), ("first", "12.96", "1.9", "79.0"),
               ("avg", "12.96", "1.9", "79.3")]
    return tuple(Row(sampling, "soft-tiny", _size(millions, gmac, top1, _SAMPLING), {"sampling": sampling} | _NEWTON)
                 for sampling, millions, gmac, top1 in printed)


TABLES: dict[str, tuple[Row, ...]] = {
    "variants": _variants(), "attentions": _attentions(), "landmarks": _landmarks(), "sampling": _sampling()}
