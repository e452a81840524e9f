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

- `table=lra`: the accuracies of Long Range Arena as three sources print them (`origin`), and the best that
  `softbench accuracy` reached on its official files (`data=DIR`), from the files of `trained`.

SOFT runs with the paper's inverse, 20 Newton steps; everything else is as the pyramid has it.
"""

from __future__ import annotations

from typing import Any

from softbench.contracts.quantities import Quantity
from softbench.contracts.study import Task
from softbench.records.views import Dots, Lines, Rows, View
from softbench.studies.reproduce.settings import Settings

_ARENA = ("listops", "text", "retrieval", "image", "pathfinder")
QUANTITIES = (
    Quantity("parameters", "1", "seeded"),
    *(Quantity(name, "flop", "exact", "less") for name in ("flops", "flops_all")),
    *(Quantity(name, "B", "exact", "less") for name in ("memory", "memory_per_image")),
    *(Quantity(f"throughput_{call}", "image/s", "time", "more") for call in ("training", "inference")),
    Quantity("over_softmax", "1", "derived", "more"), Quantity("top1", "1", "seeded", "more"),
    *(Quantity(name, "1", "seeded", "more") for name in _ARENA),
)
GATED = False  # it takes many minutes

CHOICES = ("tables", "image", "batch", "device", "rep", "trained")
QUICK = {"image": "96", "rep": 60.0}


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
    Rows(name="lra", title="Long Range Arena: per cent of test samples that are right",
         words=_WORDS | {"name": "attention"}, forms=dict.fromkeys(_ARENA, "percent"), by=("name", "origin"),
         where={"table": "lra"}, quantities=_ARENA,
         note="The same method differs by as much as twenty points between sources. here: softbench accuracy on the"
              " official files."),
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
    from softbench.studies.reproduce import reproduction

    return reproduction.tasks(settings)
