"""The journal of a run: records as JSON Lines, `summary.csv` drawn from them, `args.toml`, TensorBoard on request."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from softbench import files, records
from softbench import options as opts
from softbench.case import ModelSpec
from softbench.errors import ResultsError, UsageError
from softbench.models.blocks import ProjectedAttention
from softbench.records import About, Point, Reading, Record

RECORDS, SUMMARY, ARGS = "records.jsonl", "summary.csv", "args.toml"
UNITS = {"images_per_second": "image/s", "peak_memory": "B"}


def made(measure: str, numbers: Mapping[str, float], *, spec: ModelSpec, model: nn.Module,
         batch: int, image: tuple[int, int], dtype: str, device: str, seed: int, coords: Mapping[str, Any],
         detail: Mapping[str, Any], environment: Mapping[str, Any]) -> list[Record]:
    """A record for each of these numbers, which share all the rest. Accuracies are shares, 1 is all."""
    inside = next((module for module in model.modules() if isinstance(module, ProjectedAttention)), None)
    about = About(attention=inside.attention.name if inside else None,
                  options=opts.to_dict(inside.attention.options) if inside else {}, model=spec.display_name,
                  impl=inside.impl if inside else None, mode="forward" if measure == "eval" else "forward_backward",
                  label=spec.label)
    point = Point(batch=batch, rows=image[0], cols=image[1], dtype=dtype, device=device, seed=seed, coords=dict(coords))
    here = records.origin(dict(environment))
    return [records.make(measure, Reading(quantity, UNITS.get(quantity, "1"), [number], detail=dict(detail)), about,
                         point, here) for quantity, number in numbers.items()]


def own(folder: Path, run: str) -> list[Record]:
    """The latest records of a run in its folder, in the order of its epochs."""
    path = folder / RECORDS
    if not path.exists():
        return []
    found = records.latest(records.read(path, begun=True)[0])
    return sorted((r for r in found if r.coords.get("run") == run), key=lambda record: int(record.coords["epoch"]))


def restored(lines: Sequence[Any], where: Path) -> list[Record]:
    """Records that a checkpoint keeps as their lines. Raises ResultsError where they are something else."""
    try:
        return [records.from_json(line) for line in lines]
    except (TypeError, ValueError) as error:
        raise ResultsError(f"A checkpoint in {where} keeps records that are none: it is damaged, or not by"
                           " train-imagenet. Start anew with another --out.") from error


def settle(folder: Path, run: str, epochs: int, last: Sequence[Record]) -> None:
    """Make the records of a run those that its checkpoint stands for: each of so many epochs once, none of later ones.

    A run that was killed after a checkpoint lacks the records of its `last` epoch; one whose newest checkpoint is torn
    has an epoch that it does once more.

    Raises:
        ResultsError: the file cannot be written.
    """
    path = folder / RECORDS
    if path.exists():
        lines = files.read(path).decode(errors="surrogateescape").split("\n")
        kept = [line for line in lines if not _is_later(line, run, epochs)]
        if len(kept) < len(lines):
            records.write_whole(path, "\n".join(kept))
    known = {record.identity() for record in own(folder, run)}
    if missing := [record for record in last if record.identity() not in known]:
        records.append(path, missing)


def _is_later(line: str, run: str, epochs: int) -> bool:
    try:
        coords = json.loads(line)["coords"]
        return bool(coords["run"] == run and coords["epoch"] > epochs)
    except (ValueError, TypeError, KeyError):  # not one of ours
        return False


def summary(found: Sequence[Record]) -> str:
    """CSV with a line for each epoch and a column for each quantity, in SI units."""
    columns = list(dict.fromkeys(record.quantity for record in found))
    lines: dict[int, dict[str, Any]] = {}
    for record in found:
        lines.setdefault(int(record.coords["epoch"]), {})[record.quantity] = record.value
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *columns])
    writer.writerows([epoch, *(line.get(column, "") for column in columns)] for epoch, line in lines.items())
    return text.getvalue()


def toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """TOML of tables of plain values; what is None is left out."""
    parts = []
    for name, table in tables.items():
        lines = [f"{key} = {_plain(value)}" for key, value in table.items() if value is not None]
        parts.append("\n".join([f"[{name}]", *lines]) + "\n")
    return "\n".join(parts)


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else json.dumps(value)


def _text(text: str) -> str:
    """A string of TOML, which has no lone surrogates: an undecodable byte of a path is spelt as \\udcff."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")


@contextmanager
def aside(say: Callable[[str], None]) -> Iterator[None]:
    """Hold what writes a side file: where that fails it is said, and the work goes on."""
    try:
        yield
    except (ResultsError, OSError) as error:
        say(f"Warning: {error} The work goes on without it.")


def check_tensorboard() -> None:
    """Raise UsageError where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs the package tensorboard: pip install tensorboard.")


def tensorboard(folder: Path) -> Any:
    """TensorBoard's writer. Raises UsageError where it is not installed."""
    check_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
