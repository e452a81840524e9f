"""`softbench reproduce` can be asked this."""

from __future__ import annotations

from dataclasses import dataclass

from softbench.options import option

PAPER = ("variants", "attentions", "landmarks", "sampling")
TABLES = (*PAPER, "lra")


@dataclass(frozen=True)
class Settings:
    tables: str = option(",".join(PAPER), "which of the paper's tables; lra: published accuracies of Long Range Arena")
    image: str = option("224", "side of the images that memory and throughput are measured on, in pixels")
    batch: str = option("2", "images at once for memory (and twice as many) and for throughput")
    device: str = option("auto", "cpu, cuda, cuda:1; auto takes a GPU if there is one")
    rep: float = option(500.0, "ms of timed work for each model and mode", unit="ms", low=1, high=3_600_000)
    trained: str = option("results/*.jsonl,results/train/*/records.jsonl",
                          "files with records of trained models, globs, comma-separated")
