"""reproduce: the paper's tables beside what is counted, measured and trained here.

Every row of `softbench.models.paper` becomes two: what was published (`origin=paper`, quoted as printed, with its
source) and what softbench finds for the same model (`origin=here`).

- `table=variants`: all sizes of SOFT and SOFT++. `table=attentions`: Table 2, other attentions in the Tiny pyramid.
  `table=landmarks`, `table=sampling`: the two ablations of Table 4.
- Parameters and multiply-adds are counted, at the paper's 224 px, in the paper's way and in full
  (`softbench.models.cost`).
- Memory and throughput are measured on this device, at `image` and `batch`. Memory is the peak of a training step
  beyond weights and images, and what each further image adds to it: the peak at twice the batch less that at the
  batch, over the batch. The paper's is a whole GPU's memory, over the images on it. Throughputs of two machines say
  little, so each is also given over that of exact softmax attention in the same table.
- Accuracy is never predicted: top-1 is that of a record of `softbench train-imagenet` (after its last epoch) or
  `eval-imagenet` among the files of `trained`, over all of ImageNet-1K's validation images, and `not_run` where these
  hold none for that model.

SOFT runs with the paper's inverse, 20 Newton steps; everything else is as the pyramid has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from softbench import parsing
from softbench.contracts.quantities import Quantity
from softbench.contracts.study import Task
from softbench.options import option
from softbench.records.views import Dots, Lines, Rows, View

QUANTITIES = (
    Quantity("parameters", "1", "seeded"),
    *(Quantity(name, "flop", "exact", "less") for name in ("flops", "flops_all")),
    *(Quantity(name, "B", "exact", "less") for name in ("memory", "memory_per_image")),
    *(Quantity(f"throughput_{call}", "image/s", "time", "more") for call in ("training", "inference")),
    Quantity("over_softmax", "1", "derived", "more"), Quantity("top1", "1", "seeded", "more"),
)
GATED = False  # it takes many minutes

TABLES = ("variants", "attentions", "landmarks", "sampling")
QUICK = {"image": "96", "rep": 60.0}


@dataclass(frozen=True)
class Settings:
    tables: str = option(",".join(TABLES), "which of the paper's tables")
    image: str = option("224", "side of the images that memory and throughput are measured on, in pixels")
    batch: str = option("2", "images at once for memory (and twice as many) and for throughput")
    device: str = option("auto", "cpu, cuda, cuda:1; auto takes a GPU if there is one")
    rep: float = option(500.0, "ms of timed work for each model and mode", unit="ms", low=1, high=3_600_000)
    trained: str = option("results/*.jsonl,results/train/*/records.jsonl",
                          "files with records of trained models, globs, comma-separated")


_WORDS = {
    "name": "arch", "origin": "from", "parameters": "params", "flops": "GMAC", "flops_all": "GMAC, all",
    "top1": "top-1 %", "memory": "memory", "memory_per_image": "per image", "throughput_training": "training",
    "throughput_inference": "inference", "over_softmax": "times softmax-tiny", "call": "call"}
_FORMS = {"memory": "bytes", "memory_per_image": "bytes",
          "parameters": "count", "flops": "gmac", "flops_all": "gmac", "top1": "percent"}
_GMAC = ("GMAC: as the paper counts, without landmarks, distances and inverse. all: everything, with 20 Newton steps."
         " Both at 224 px.")
_TOP1 = "top-1 here: from records of trained models (--trained)."
_MEMORY = ("memory: the peak of a training step; the paper's is at 128 images a GPU, softmax-tiny's at 32. per image:"
           " what one more image adds; the paper's is memory over images.")
_PANEL: dict[str, Any] = {"words": _WORDS, "forms": _FORMS, "series": "origin"}

VIEWS: tuple[View, ...] = (
    Rows(name="variants", title="The variants", words=_WORDS, forms=_FORMS, by=("name", "origin"),
         where={"table": "variants"}, quantities=("parameters", "flops", "flops_all", "top1"), note=f"{_GMAC} {_TOP1}"),
    Rows(name="attentions", title="Other attentions in the Tiny pyramid (Table 2)", words=_WORDS, forms=_FORMS,
         by=("name", "origin"), where={"table": "attentions"}, quantities=(
             "memory", "memory_per_image", "parameters", "flops", "flops_all", "top1", "throughput_training",
             "throughput_inference"), note=f"{_MEMORY} {_GMAC} {_TOP1}"),
    Rows(name="landmarks", title="The number of landmarks m in SOFT-Tiny (Table 4a)",
         words=_WORDS | {"name": "m"}, forms=_FORMS, by=("name", "origin"), where={"table": "landmarks"},
         quantities=("memory", "memory_per_image", "flops", "flops_all", "top1"), note=f"{_MEMORY} {_GMAC} {_TOP1}"),
    Rows(name="sampling", title="How SOFT-Tiny samples its landmarks (Table 4b)", words=_WORDS | {"name": "sampling"},
         forms=_FORMS, by=("name", "origin"), where={"table": "sampling"},
         quantities=("parameters", "flops", "flops_all", "top1"), note=f"{_GMAC} {_TOP1}"),
    Dots(name="parameters", title="Parameters of the variants", quantity="parameters", y="name", log_x=True,
         where={"table": "variants"}, **_PANEL),
    Dots(name="gmac", title="Multiply-adds of the variants at 224 px, in thousands of millions", quantity="flops",
         y="name", reference="flops_all", where={"table": "variants"}, **_PANEL,
         note="Dots: as the paper counts. Ticks: everything that runs, with 20 Newton steps."),
    Dots(name="accuracy", title="Top-1 accuracy of the variants on ImageNet-1K", quantity="top1", y="name",
         where={"table": "variants"}, **_PANEL),
    Dots(name="speed", title="Throughput over that of softmax-tiny", quantity="over_softmax", y="name", panels="call",
         where={"table": "attentions"}, **_PANEL, note="The paper's throughputs are recalled, not read again."),
    Dots(name="memory", title="Memory of a training step for each image", quantity="memory_per_image", y="name",
         log_x=True, where={"table": "attentions"}, **_PANEL),
    Lines(name="memory_by_landmarks", forms=_FORMS, title="Memory of a training step for each image, by landmarks",
          quantities=("memory_per_image",), x="name", where={"table": "landmarks"}, log_y=False, words=_WORDS | {
              "name": "landmarks m"}, series="origin"),
)


def tasks(settings: Settings) -> list[Task]:
    """The pieces of the study.

    Raises:
        UsageError: no such table or device, or a size that is no number. ResultsError: a file of `trained` cannot be
            read.
    """
    from softbench.machine.device import find
    from softbench.models import paper
    from softbench.studies.reproduce import reproduction as run

    tables = parsing.choices(settings.tables.split(","), TABLES, "table")
    batch, image = parsing.count(settings.batch, "batch"), parsing.count(settings.image, "image")
    device = find(settings.device)
    trained = run.trained(settings.trained)
    point = run.Point(image, batch, device, settings.rep)
    run.check(point)
    pieces: list[Task] = []
    for table in tables:
        rows = paper.TABLES[table]
        pieces.append(Task(f"{table} published", partial(run.published, table, rows)))
        pieces.append(Task(f"{table} counted", partial(run.counted, table, rows)))
        quantities = {number.quantity for row in rows for number in row.numbers}
        if "memory" in quantities:
            pieces += [Task(f"{table} memory of {row.name} {point.label}", partial(run.memory, table, row, point))
                       for row in rows]
        if "throughput_inference" in quantities:
            pieces += [Task(f"{table} {call} {point.label} rep={settings.rep:g}",
                            partial(run.throughput, table, rows, point, call)) for call in run.CALLS]
        pieces.append(Task(f"{table} top-1 of {run.named(trained)}", partial(run.accuracy, table, rows, trained)))
    return pieces
