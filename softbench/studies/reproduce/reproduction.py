"""The study `reproduce` does this for one table: quote the paper, count, measure, and look trainings up."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from softbench import models, options, parsing, records, subjects
from softbench.bench.costs import disturbance
from softbench.bench.sweep import Job, Sweep
from softbench.case import Case, ModelSpec, Shape
from softbench.contracts.study import Finding, Task
from softbench.dtypes import FLOAT32
from softbench.errors import ResultsError
from softbench.machine.device import find
from softbench.measures import latency
from softbench.measures import memory as peaks
from softbench.models import paper
from softbench.models.blocks import ProjectedAttention
from softbench.models.cost import cost
from softbench.models.paper import Row
from softbench.models.pyramid import Pyramid
from softbench.records import Record
from softbench.studies.reproduce import arena
from softbench.studies.reproduce.settings import TABLES, Settings

CALLS = {"training": "forward_backward", "inference": "forward"}
BASE = "softmax-tiny"  # whose throughput others are compared with
_PAPER, _HERE = "paper", "here"
_KNOWN = {"seen": "", "derived": "not printed, but follows from what is", "recalled": "recalled, not read again"}


@dataclass(frozen=True)
class Point:
    """Where memory and throughput are measured; `rep` are the ms of timed work."""

    image: int
    batch: int
    device: str
    rep: float

    @property
    def label(self) -> str:
        """Tell two points apart in the names of tasks."""
        return f"image={self.image} batch={self.batch} {torch.device(self.device).type}"

    def remark(self) -> str:
        """Warn a reader of numbers taken on other images than the paper's."""
        return "" if self.image == paper.IMAGE else f"memory and throughput: measured at {self.image} px"


def tasks(settings: Settings) -> list[Task]:
    """Plan the pieces of the study.

    Raises:
        UsageError: no such table or device, or a size that is no number. ResultsError: a file of `trained` cannot be
            read.
    """
    tables = parsing.choices(settings.tables.split(","), TABLES, "table")
    batch, image = parsing.count(settings.batch, "batch"), parsing.count(settings.image, "image")
    accuracies, answers = trained(settings.trained), trained(settings.trained, arena.is_answer)
    point = Point(image, batch, find(settings.device), settings.rep)
    check(point)
    pieces: list[Task] = []
    for table in tables:
        if table == "lra":
            pieces += [Task("lra published", arena.published),
                       Task(f"lra accuracies of {named(answers)}", partial(arena.here, answers))]
            continue
        rows = paper.TABLES[table]
        pieces.append(Task(f"{table} published", partial(published, table, rows)))
        pieces.append(Task(f"{table} counted", partial(counted, table, rows)))
        quantities = {number.quantity for row in rows for number in row.numbers}
        if "memory" in quantities:
            pieces += [Task(f"{table} memory of {row.name} {point.label}", partial(memory, table, row, point),
                            at={"device": point.device}) for row in rows]
        if "throughput_inference" in quantities:
            pieces += [Task(f"{table} {call} {point.label} rep={settings.rep:g}",
                            partial(throughput, table, rows, point, call),
                            at={"device": point.device, "rep": point.rep}) for call in CALLS]
        pieces.append(Task(f"{table} top-1 of {named(accuracies)}", partial(accuracy, table, rows, accuracies)))
    return pieces


def published(table: str, rows: Iterable[Row]) -> list[Finding]:
    """The numbers as printed; those that were not read in their source say so."""
    findings = []
    for row in rows:
        for number in row.numbers:
            remarks = "; ".join(filter(None, [number.note, _KNOWN[number.known]]))
            kind = "throughput" if number.quantity.startswith("throughput") else number.quantity.replace("_", " ")
            note = f"{kind}: {remarks}" if remarks else ""
            findings.append(_quoted(table, row, number.quantity, number.value, number.unit, number.printed,
                                    number.source, note))
        speeds = {number.quantity: number for number in row.numbers if number.quantity.startswith("throughput")}
        for call in CALLS:
            if (mine := speeds.get(f"throughput_{call}")) and (base := _published_base(table, mine.quantity)):
                findings.append(_quoted(table, row, "over_softmax", mine.value / base, "1", f"{mine.value / base:.2f}",
                                        mine.source, _KNOWN[mine.known], call=call))
    return findings


def counted(table: str, rows: Iterable[Row]) -> list[Finding]:
    """Parameters, and multiply-adds in the paper's way and in full, of one image of the paper's size."""
    findings = []
    for row in rows:
        model = _model(row)
        total = cost(model)
        parts = {"gmac_by_part": {name: flops / 2e9 for name, flops in total.by_name().items()}}
        for quantity, value, unit in (("parameters", sum(p.numel() for p in model.parameters()), "1"),
                                      ("flops", total.published, "flop"), ("flops_all", total.flops, "flop")):
            findings.append(_here(table, row, quantity=quantity, value=float(value), unit=unit, note=row.note,
                                  rows=paper.IMAGE, cols=paper.IMAGE, detail=parts if unit == "flop" else {}))
    return findings


def memory(table: str, row: Row, point: Point) -> list[Finding]:
    """The peak of a training step, and what each further image adds to it."""
    batches = (point.batch, 2 * point.batch)
    small, large = _measured([row, row], point, "memory", "training", batches)
    each = (large.value - small.value) / point.batch if small.value is not None and large.value is not None else None
    kept = {"peaks": {str(batches[0]): small.value, str(batches[1]): large.value}}
    return [_from(table, row, point, small, quantity="memory", value=small.value),
            _from(table, row, point, small if small.value is None else large, quantity="memory_per_image", value=each,
                  samples=[], detail=kept)]


def throughput(table: str, rows: Sequence[Row], point: Point, call: str) -> list[Finding]:
    """Images a second of all rows, their calls interleaved, and over that of exact softmax attention."""
    measured = _measured(rows, point, "latency", call, [point.batch] * len(rows))
    base = next(record.value for row, record in zip(rows, measured, strict=True) if row.arch == BASE)
    findings = []
    for row, record in zip(rows, measured, strict=True):
        seconds = record.value
        findings.append(_from(table, row, point, record, quantity=f"throughput_{call}", unit="image/s",
                              value=None if seconds is None else point.batch / seconds,
                              samples=[point.batch / sample for sample in record.samples]))
        if seconds is not None and base is not None:
            findings.append(_from(table, row, point, record, quantity="over_softmax", unit="1", value=base / seconds,
                                  samples=[], call=call))
    return findings


def check(point: Point) -> None:
    """Raise UsageError where no model takes such images."""
    job = _job(ModelSpec(BASE), point, "inference", point.batch)
    job.subject.check(job.case)


def trained(patterns: str, keep: Callable[[Record], bool] | None = None) -> list[Record]:
    """The records of top-1 accuracy on ImageNet-1K in these files, or others to keep. A pattern with a * may name none,
    or other files.

    Raises:
        ResultsError: a file that is named does not exist, or holds no record.
    """
    accuracies: list[Record] = []
    for pattern in filter(None, (text.strip() for text in patterns.split(","))):
        for path in glob.glob(pattern) if "*" in pattern else records.expand([pattern]):
            try:
                accuracies += [record for record in records.read(path)[0] if (keep or _is_accuracy)(record)]
            except ResultsError:
                if "*" not in pattern:
                    raise
    return records.latest(accuracies)


def named(accuracies: Sequence[Record]) -> str:
    """These records in a few words that change with them, so that a resumed study looks again."""
    digest = hashlib.sha256("".join(f"{record.identity()}{record.value}" for record in accuracies).encode()).hexdigest()
    return f"{len(accuracies)} records {digest[:8]}" if accuracies else "no training"


def accuracy(table: str, rows: Iterable[Row], accuracies: Sequence[Record]) -> list[Finding]:
    """The best top-1 of the trainings of each row's model, or that there was none."""
    findings = []
    for row in rows:
        mine = [record for record in accuracies if record.model == row.arch]
        if mine:
            architecture = _architecture(_inside(_model(row)))
            mine = [record for record in mine if _architecture(record.options) == architecture]
        best = max(mine, key=lambda record: record.value or 0.0, default=None)
        if best is None:
            findings.append(_here(table, row, quantity="top1", value=None, status="not_run"))
        else:
            findings.append(_here(table, row, quantity="top1", value=best.value, samples=best.samples, rows=best.rows,
                                  cols=best.cols, detail={"trained": best.started, "label": best.label}))
    return findings


def _is_accuracy(record: Record) -> bool:
    """True for a top-1 as the paper's: of all 50,000 images at its size, after the last epoch of a training."""
    at = record.coords
    whole = (at.get("classes"), at.get("images"), record.rows) == (*paper.IMAGENET, paper.IMAGE)
    done = record.measure == "eval" or (record.measure == "train" and at.get("epoch") == at.get("epochs"))
    return record.quantity in ("top1", "top1_ema") and record.value is not None and whole and done


def _architecture(options: Mapping[str, Any]) -> dict[str, Any]:
    """Pick of an attention's options those that are a matter of the model, and not of how it is computed."""
    kept = {key: value for key, value in options.items() if key not in ("inverse", "iterations", "ridge", "seed")}
    same = {"conv_ratio": "conv"}  # at the paper's image size
    return kept | ({"sampling": same.get(kept["sampling"], kept["sampling"])} if "sampling" in kept else {})


def _model(row: Row) -> Pyramid:
    """Return the model of a row for images of the paper's size, without numbers in it."""
    with torch.device("meta"):
        model = models.create(row.arch, attn_options=row.options, img_size=paper.IMAGE)
    assert isinstance(model, Pyramid)
    return model


def _inside(model: Pyramid) -> dict[str, Any]:
    """The options of the attention in the first stage, as records of trainings have them."""
    inside = next(module for module in model.modules() if isinstance(module, ProjectedAttention))
    return options.to_dict(inside.attention.options)


def _measured(rows: Iterable[Row], point: Point, measure: str, call: str, batches: Sequence[int]) -> list[Record]:
    """One record of each row's model at its batch, by softbench's own measure."""
    jobs = [_job(ModelSpec(row.arch, row.options), point, call, batch)
            for row, batch in zip(rows, batches, strict=True)]
    module, settings = (latency, latency.Settings(rep=point.rep, warmup=point.rep / 5)) if measure == "latency" else (
        peaks, peaks.Settings(passes=1))
    return [record for _, group in Sweep(measure, module, settings, jobs) for record in group
            if record.quantity == module.QUANTITIES[0].name]


def _job(spec: ModelSpec, point: Point, call: str, batch: int) -> Job:
    case = Case(spec, Shape(batch, 0, point.image, point.image, 0), device=point.device, mode=CALLS[call])
    return Job(case, subjects.load(spec))


def _from(table: str, row: Row, point: Point, record: Record, **changed: Any) -> Finding:
    """A number made from what a measure found; where it found none, its status says why."""
    note = "; ".join(filter(None, [record.note, disturbance(record.detail), point.remark()]))
    known: dict[str, Any] = {
        "unit": record.unit, "samples": record.samples, "status": record.status, "note": note, "impl": record.impl,
        "mode": record.mode, "batch": record.batch, "rows": record.rows, "cols": record.cols, "dtype": record.dtype,
        "detail": record.detail}
    return _here(table, row, **known | changed)


def _here(table: str, row: Row, *, call: str = "", **known: Any) -> Finding:
    spec = ModelSpec(row.arch, row.options)
    subject = subjects.load(spec)
    about: dict[str, Any] = {
        "label": spec.label, "model": subject.model, "attention": subject.attention or None, "options": subject.options,
        "dtype": FLOAT32, "coords": _coords(table, row, _HERE, call)}
    return Finding(**about | known)


def _quoted(table: str, row: Row, quantity: str, value: float, unit: str, printed: str, source: str, note: str,
            call: str = "") -> Finding:
    return Finding(quantity=quantity, value=value, unit=unit, note=note, label=row.arch, model=row.arch,
                       detail={"printed": printed}, coords=_coords(table, row, _PAPER, call), quoted=source)


def _coords(table: str, row: Row, origin: str, call: str) -> dict[str, Any]:
    return {"table": table, "name": row.name, "origin": origin} | ({"call": call} if call else {})


def _published_base(table: str, quantity: str) -> float | None:
    numbers: Mapping[str, paper.Published] = {
        number.quantity: number for row in paper.TABLES[table] if row.arch == BASE for number in row.numbers}
    return numbers[quantity].value if quantity in numbers else None
