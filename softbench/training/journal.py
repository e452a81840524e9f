"""The journal of a run: records as JSON Lines, `summary.csv` drawn from them, `args.toml`, the names of bad samples."""

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

from softbench import files, options, records
from softbench.case import ModelSpec
from softbench.dtypes import FLOAT32
from softbench.errors import ResultsError, UsageError
from softbench.models.blocks import ProjectedAttention
from softbench.records import About, Point, Reading, Record
from softbench.training.distributed import Group
from softbench.training.task import Judged

RECORDS, SUMMARY, ARGS = "records.jsonl", "summary.csv", "args.toml"


def made(measure: str, numbers: Mapping[str, float], *, spec: ModelSpec, model: nn.Module, batch: int,
         grid: tuple[int, int], amp: str, device: str, seed: int, coords: Mapping[str, Any],
         detail: Mapping[str, Any], environment: Mapping[str, Any]) -> list[Record]:
    """A record for each of these numbers, which share all the rest. Accuracies are shares, 1 is all."""
    inside = next((module for module in model.modules() if isinstance(module, ProjectedAttention)), None)
    about = About(attention=inside.attention.name if inside else None,
                  options=options.to_dict(inside.attention.options) if inside else {}, model=spec.display_name,
                  impl=inside.impl if inside else None, mode="forward" if measure == "eval" else "forward_backward",
                  label=spec.label)
    point = Point(batch=batch, rows=grid[0], cols=grid[1], dtype=FLOAT32 if amp == "none" else amp, device=device,
                  seed=seed, coords=dict(coords))
    here = records.origin(dict(environment))
    return [records.make(measure, Reading(quantity, unit(quantity), [number], detail=dict(detail)), about,
                         point, here) for quantity, number in numbers.items()]


def unit(quantity: str) -> str:
    """The unit of what training and evaluation count: "image/s" of images_per_second."""
    word, per_second, _ = quantity.partition("s_per_second")
    return f"{word}/s" if per_second else "B" if quantity == "peak_memory" else "1"


def own(folder: Path, run: str) -> list[Record]:
    """The latest records of a run in its folder, in the order of its epochs."""
    path = folder / RECORDS
    if not path.exists():
        return []
    every = records.latest(records.read(path, begun=True)[0])
    return sorted((r for r in every if r.coords.get("run") == run), key=lambda record: int(record.coords["epoch"]))


def restored(lines: Sequence[Any], where: Path) -> list[Record]:
    """Records that a checkpoint keeps as their lines. Raises ResultsError where they are something else."""
    try:
        return [records.from_json(line) for line in lines]
    except (TypeError, ValueError) as error:
        raise ResultsError(f"A checkpoint in {where} keeps records that are none: it is damaged, or of no"
                           " training. Start anew with another --out.") from error


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


def summary(epochs: Sequence[Record]) -> str:
    """CSV with a line for each epoch and a column for each quantity, in SI units."""
    columns = list(dict.fromkeys(record.quantity for record in epochs))
    lines: dict[int, dict[str, Any]] = {}
    for record in epochs:
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


class Unreadable:
    """The samples of a split that cannot be read, over all processes: named in a file, counted once each.

    Args:
        split: "train" or "val".
        folder: where the leading process names them, in bad-WORDs.txt.
        limit: how many are passed over.
        known: indices of those that are named already.
        say: told where they cannot be named.
    """

    def __init__(self, judged: Judged, split: str, word: str, folder: Path, limit: int, group: Group, known: list[int],
                 say: Callable[[str], None]) -> None:
        self.judged, self.split, self.word, self.limit, self.group = judged, split, word, limit, group
        self.path, self.known, self.say = folder / f"bad-{word}s.txt", known, say

    def note(self, indices: list[int]) -> None:
        """Take note of samples that this process could not read; all processes call this together.

        Raises:
            ResultsError: more are bad than may be.
        """
        everywhere = {index for some in self.group.gathered(indices) for index in some}
        fresh = sorted(everywhere - set(self.known))
        self.known += fresh
        with self.group.together():
            if fresh and self.group.leads:
                with aside(self.say):
                    self._name(fresh)
            if len(self.known) > self.limit:
                raise ResultsError(
                    f"{len(self.known)} {self.word}s of {self.split} cannot be read, more than --max-bad {self.limit};"
                    f" {self.path} names them. Repair them, or allow more.")

    def _name(self, indices: list[int]) -> None:
        lines = [f"{self.split}/{self.judged.name(self.split, index)}\n" for index in indices]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+", encoding="utf-8", errors="surrogateescape") as file:
                file.seek(0)
                named = file.read()  # by this run before it was killed, or by another
                if named and not named.endswith("\n"):
                    file.write("\n")
                before = set(named.splitlines(keepends=True))
                file.writelines(line for line in lines if line not in before)
        except OSError as error:
            raise ResultsError(f"Cannot write {self.path}: {error.strerror}.") from error
