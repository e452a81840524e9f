"""Tables: a frame of records becomes the tables that its measures and studies list, as text ready to be drawn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from softbench.contracts import quantities
from softbench.errors import UsageError
from softbench.records.views import Cases, Rows, View
from softbench.reports import rows
from softbench.reports.rows import Row
from softbench.reports.tables import cases, listing
from softbench.reports.tables.text import Column, Table, markdown, plain, rich_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Column", "Table", "markdown", "of_rows", "plain", "rich_table", "tables", "to_csv"]


def tables(frame: pd.DataFrame, baseline: str = "", views: Mapping[str, Sequence[View]] | None = None) -> list[Table]:
    """The tables of each measure and study in the frame, in order of first appearance.

    Args:
        baseline: what the ratios of cases refer to (`softbench.reports.sheet.sheets`).
        views: by measure or study; left out, those that each lists.
    Raises:
        UsageError: the frame has no records.
    """
    measures: dict[str, list[Row]] = {}
    for row in rows.of(frame):
        measures.setdefault(str(row.at("measure")), []).append(row)
    if not measures:
        raise UsageError("There are no records to show.")
    return [table for name, same in measures.items()
            for table in of_rows(quantities.views(name) if views is None else views[name], same, baseline)]


def of_rows(views: Iterable[View], rows: Sequence[Row], baseline: str = "") -> list[Table]:
    """The tables among the views of one measure that have something to show, and one of tasks without a result."""
    made: list[Table | None] = []
    for view in views:
        if isinstance(view, Cases):
            made += cases.tables(view, rows, baseline)
        elif isinstance(view, Rows):
            made.append(listing.table(view, rows))
    return [table for table in (*made, listing.unfinished(rows)) if table is not None]


def to_csv(frame: pd.DataFrame) -> str:
    """One row a record, in SI units; lists and mappings are JSON text, and a missing value is empty."""
    flat = frame.map(lambda value: json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value)
    return str(flat.to_csv(index=False, lineterminator="\n"))
