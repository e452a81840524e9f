"""Selecting: the records of result files that a command is asked for. A name that no record has is a mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click

from softbench import records
from softbench.cli import _presenting, _printing
from softbench.errors import UsageError, unknown
from softbench.records import Record
from softbench.reports.sheet import BASELINE

_NONE = "none"


def options(command: Callable[..., None]) -> Callable[..., None]:
    """The flags that choose records and views."""
    flags = (
        click.option("--measure", metavar="NAMES", help="Only the records of these measures, comma-separated."),
        click.option("--attn", help="Only these attentions, by name or label, comma-separated; the baseline stays."),
        click.option("--model", help="Only these whole models, in the same way."),
        click.option("--where", multiple=True, metavar="COLUMN=VALUE",
                     help="Only records with this value, as in dtype=float32 or mode=forward. Repeatable."),
        click.option("--baseline", default="",
                     help="What ratios refer to; none for none. [softmax; of models, the first]"),
        click.option("--view", **_presenting.VIEW),
    )
    for flag in reversed(flags):  # as decorators apply from the last to the first
        command = flag(command)
    return command


def select(files: Sequence[str], measure: str | None, attn: str | None, model: str | None, conditions: Sequence[str],
           baseline: str) -> list[Record]:
    """The records of these files that fit the flags of `options`. Raises UsageError where none does."""
    rows, _ = read(records.expand(files))
    check_baseline(rows, baseline)
    chosen = of_subjects(of_measures(rows, measure), attn, model, baseline)
    chosen = where(chosen, conditions)
    if not chosen:
        there = [f"{what} {', '.join(sorted(names))}" for what, names in (
            ("measures", {r.measure for r in rows}), ("attentions", {r.name for r in rows if not r.model}),
            ("models", {r.name for r in rows if r.model})) if names]
        raise UsageError(f"No record fits --measure, --attn, --model and --where. The files hold {'; '.join(there)}.")
    return chosen


def read(paths: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """The latest record of each case in these files, and what is wrong with some lines, which is also said."""
    rows, problems = [], []
    for path in paths:
        whole, wrong = records.read(path)
        rows += whole
        problems += wrong
    for problem in problems:
        _printing.say(f"Warning: {problem}")
    return records.latest(rows), problems


def of_measures(rows: Sequence[Record], measures: str | None) -> list[Record]:
    """The records of some measures, named comma-separated as commands are. Raises UsageError where one has none."""
    there = {record.measure for record in rows}
    names = _names(measures.replace("-", "_"), "measure", there) if measures is not None else there
    return [record for record in rows if record.measure in names]


def of_subjects(rows: Sequence[Record], attn: str | None, model: str | None, baseline: str) -> list[Record]:
    """The records of some attentions and models and of the baseline; all where neither flag is given.

    Raises:
        UsageError: a name that no record has.
    """
    if attn is None and model is None:
        return list(rows)
    there = {kind: {name for record in rows if bool(record.model) is (kind == "model") for name in _own(record)}
             for kind in ("attention", "model")}
    names = {kind: {*_names(text, kind, there[kind]), baseline or BASELINE} if text is not None else set()
             for kind, text in (("attention", attn), ("model", model))}
    return [record for record in rows if _own(record) & names["model" if record.model else "attention"]]


def where(rows: Sequence[Record], conditions: Sequence[str]) -> list[Record]:
    """The records that have these values, each written COLUMN=VALUE.

    Raises:
        UsageError: no such column, a value that no record has there, or one column twice.
    """
    required: dict[str, str] = {}
    for text in conditions:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise UsageError(f"--where: '{text}' is not COLUMN=VALUE, as in dtype=float32.")
        if column in required:
            raise UsageError(f"--where names '{column}' twice, and a record has one value there: leave one out.")
        required[column] = value
    columns = [(record, _columns(record)) for record in rows]
    for column, value in required.items():
        if column not in (names := {name for _, own in columns for name in own}):
            raise unknown("column", column, names)
        if value not in (values := {own[column] for _, own in columns if column in own}):
            raise unknown(f"value of {column} in these files", value, values)
    return [record for record, own in columns if required.items() <= own.items()]


def check_baseline(rows: Sequence[Record], name: str) -> None:
    """Raise UsageError where no record is of the attention or model that ratios are to refer to."""
    there = {own for record in rows for own in _own(record) if own}
    if name and name != _NONE and name not in there:
        raise unknown("attention or model in these files", name, {*there, _NONE})


def _names(text: str, kind: str, there: Iterable[str]) -> set[str]:
    names = {name.strip() for name in text.split(",")}
    there = set(there) - {""}
    for name in sorted(names - there):
        raise unknown(f"{kind} in these files", name, there)
    return names


def _own(record: Record) -> set[str]:
    return {record.model or record.attention or "", record.name}


def _columns(record: Record) -> dict[str, str]:
    """Give what --where may name, as text: subject, point and coordinates of a record, and its machine."""
    names = ("quantity", "status", "attention", "model", "label", "impl", "mode", "batch", "heads", "rows", "cols",
             "head_dim", "causal", "dtype", "device", "seed")
    values = {name: getattr(record, name) for name in names} | {"tokens": record.tokens}
    values |= record.coords | {"machine": record.environment.get("machine", "")}
    return {name: "" if value is None else str(value) for name, value in values.items()}
