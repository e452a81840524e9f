"""Tables and figures as a reader gets them of records."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from softbench.records import Record, to_frame
from softbench.records.views import View
from softbench.reports import figures, rows, tables
from softbench.reports.figures import drawing
from softbench.reports.sheet import Sheet, sheets
from softbench.reports.tables import Table


def table(records: Sequence[Record], baseline: str = "") -> Table:
    """The one table of records of cases."""
    (only,) = tables.tables(to_frame(records), baseline)
    return only


def sheet(records: Sequence[Record], baseline: str = "") -> Sheet:
    """The one sheet of these records."""
    (only,) = sheets(rows.of(to_frame(records)), baseline)
    return only


def listed(view: View, records: Sequence[Record]) -> list[Table]:
    """The table of a view, as far as it has something to show, and the one of tasks without a result."""
    return tables.of_rows([view], rows.of(to_frame(records)))


def figure(view: View, records: Sequence[Record]) -> Figure | None:
    """The picture of a view."""
    with drawing.settings():
        return figures.draw(view, rows.of(to_frame(records)))
