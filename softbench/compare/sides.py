"""Sides: what `softbench compare A B` names, as records; and which of their records are about the same case.

A side is a file, a folder, a glob, or one attention or model of them: `FILE@LABEL`, or `@LABEL` for the other side's
files.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from softbench import records
from softbench.errors import ResultsError, UsageError, unknown
from softbench.records import Record

_POINT = ("measure", "quantity", "mode", "batch", "heads", "rows", "cols", "head_dim", "causal", "dtype", "device",
          "seed", "coords")


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: as the user wrote it.
        label: the only subject taken from the files; empty for all.
        records: in the order of the files; numbers that were quoted rather than measured are left out.
        problems: a sentence for each line that is not a record.
        paths: the files.
    """

    name: str
    label: str
    records: list[Record]
    problems: list[str]
    paths: Sequence[Path] = ()


def read(base: str, head: str) -> tuple[Side, Side]:
    """Return both sides.

    Raises:
        ResultsError: no such file, one that holds no record, or nothing but quoted numbers.
        UsageError: no such label, or a label on one side only, so that nothing could be paired.
    """
    (base_files, base_label), (head_files, head_label) = _parse(base), _parse(head)
    if not base_files and not head_files:
        raise UsageError(f"'{base}' and '{head}' name no file. Write FILE@LABEL, then @LABEL for the same file.")
    if bool(base_label) != bool(head_label):
        with_label, without = (base, head) if base_label else (head, base)
        raise UsageError(f"'{with_label}' is one subject and '{without}' all of a file. Name a subject on both sides,"
                         " as in FILE@softmax FILE@soft.")
    return load(base, base_files or head_files, base_label), load(head, head_files or base_files, head_label)


def _parse(text: str) -> tuple[str, str]:
    """Files and label of one side. A name that exists is a file, whatever it holds."""
    if os.path.exists(text) or glob.glob(text) or "@" not in text:
        return text, ""
    files, _, label = text.rpartition("@")
    if not label:
        raise UsageError(f"'{text}' ends in @: write FILE@LABEL, as in results/latency-cpu.jsonl@soft.")
    return files, label


def load(name: str, files: str, label: str = "") -> Side:
    """The records of a file, a folder or a glob as a side. Raises what `read` does."""
    rows, problems = [], []
    paths = records.expand([files] if not os.path.isdir(files) else _in_folder(files))
    for path in paths:
        whole, wrong = records.read(path)
        rows += [record for record in whole if record.environment]
        problems += wrong
    if not rows:
        raise ResultsError(f"{files} holds nothing that was measured.")
    if label:
        labels = {record.name for record in rows}
        if label not in labels:
            raise unknown(f"attention or model in {files}", label, labels - {""})
        rows = [record for record in rows if record.label == label]
    return Side(name, label, rows, problems, paths)


def _in_folder(folder: str) -> Sequence[Path]:
    files = sorted(Path(folder).glob("*.jsonl"))
    if not files:
        raise ResultsError(f"No .jsonl file in {folder}.")
    return files


def only(side: Side, measures: str | None) -> Side:
    """The side with the records of some measures, named comma-separated. Raises UsageError where one has none."""
    if measures is None:
        return side
    names = [name.strip() for name in measures.split(",")]
    there = {record.measure for record in side.records}
    for name in names:
        if name not in there:
            raise unknown(f"measure in {side.name}", name, there)
    return replace(side, records=[record for record in side.records if record.measure in names])


def keyed(side: Side, *, impls: bool) -> dict[str, list[Record]]:
    """The side's records by case: all runs of it, in order, of the latest outcome of each identity.

    Two records are of one case where subject (as it was named) and point agree; of sides that are one subject each, the
    point alone. `impls` tells implementations apart as well.
    """
    alive = {record.identity() for record in records.latest(side.records)}
    by_case: dict[str, list[Record]] = {}
    for record in side.records:
        if record.identity() in alive:
            names = [*_POINT, *([] if side.label else ["label", "model"]), *(["impl"] if impls else [])]
            by_case.setdefault(json.dumps([getattr(record, n) for n in names], sort_keys=True), []).append(record)
    return by_case


def several_impls(sides: Iterable[Side]) -> bool:
    """True where some side holds one case in two implementations, which must then not be mixed up."""
    for side in sides:
        for group in keyed(side, impls=False).values():
            if len({record.impl for record in group}) > 1:
                return True
    return False
