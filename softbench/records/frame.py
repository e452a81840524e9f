"""Records as a pandas frame: what tables, pictures and `softbench.load` are made from."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softbench.records.files import expand, latest, read
from softbench.records.record import ORDER, Record
from softbench.stats import quartiles

if TYPE_CHECKING:
    import pandas as pd

_TEXT = ("attention", "model", "impl", "mode", "label", "causal", "dtype", "device")
WHOLE = ("batch", "heads", "rows", "cols", "head_dim", "seed", "tokens")  # numbers that are whole, where they exist


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """A frame with one row a record: its fields, `tokens`, quartiles `q1` and `q3` of the samples (SI units), the
    entries of `coords` as columns of their own, and the environment's as `env.<key>`. What does not exist is NA."""
    import pandas as pd

    frame = pd.DataFrame([columns(record) for record in records])
    whole = [name for name in WHOLE if name in frame and frame[name].isna().any()]  # else they would become floats
    return frame.astype({"value": float} | dict.fromkeys(whole, "Int64")) if len(frame) else frame


def columns(record: Record) -> dict[str, Any]:
    """The entries of a record's row."""
    row = {name: getattr(record, name) for name in ORDER if name not in ("coords", "environment")}
    row["tokens"] = record.tokens or None
    row["q1"], row["q3"] = quartiles(record.samples)
    return row | record.coords | {f"env.{key}": value for key, value in record.environment.items()}


def load(*paths: Path | str) -> pd.DataFrame:
    """`softbench.load("results/x.jsonl")`: the latest record of each identity in these files, as a frame.

    Paths may be globs. Lines that are not records are left out with a warning.

    Raises:
        ResultsError: no such file, or one that holds no record.
    """
    records = []
    for path in expand(paths):
        rows, problems = read(path)
        records += rows
        for problem in problems:
            warnings.warn(problem, stacklevel=2)
    return to_frame(latest(records))


def rows(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows of a frame as mappings, with None where a field of a record does not exist."""
    import pandas as pd

    dicts: list[dict[Any, Any]] = frame.to_dict("records")
    absent = [name for name in (*_TEXT, *WHOLE) if name in frame and frame[name].isna().any()]
    return [row | {name: None for name in absent if pd.isna(row[name])} for row in dicts] if absent else dicts
