"""Views: how numbers are shown, as data. Measures and studies list them, `softbench.reports` makes tables and pictures.

A view names columns and quantities of their records. A column is a field of the record (`attention`, `dtype`,
`tokens`), a coordinate by its name (`family`), or an entry of a mapping (`options.landmarks`, `detail.steps`). A
quantity is what a record calls its number. Records that a view cannot tell apart by the columns it names, such as those
of two machines, are told apart by the columns in which they differ: a table shows these too, and a figure gets more
panels. Columns of a table that are the same in all its rows go into its caption.

Numbers: `detail["ci95"] = [low, high]` is drawn as an interval and written as `0.120±0.004`; a quoted number is
written as `detail["printed"]` has it. A record without a value appears as its status; one with a value and a status
other than "ok" is marked and explained below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class View:
    """All views have this.

    Attributes:
        name: what `--view` and the name of its picture say; lower case with underscores, unique in its plugin.
        title: one sentence that says what is shown.
        where: keeps only records that have this value, or one of these values (a tuple), in that column. The title
            should say which these are.
        words: what columns and quantities are called in headers, axes and panels; others lose their underscores.
        forms: how a quantity is written where its unit does not say it, by a name of `softbench.reports.format.FORMS`:
            "gmac" for multiply-adds, "percent", "count", "about" for two digits, "bytes" for decimal units.
        note: what a reader must know to read it, below the table or figure.
    """

    name: str
    title: str
    where: Mapping[str, Any] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    forms: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    is_table: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Cases(View):
    """The table of a measure: a row for each subject at each point, each number with its ratio to the baseline.

    It shows all records of the measure, attentions and whole models apart.

    Attributes:
        quantities: in the order of the columns; others follow.
    """

    is_table = True
    quantities: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Curves(View):
    """The picture of a measure: its numbers against the tokens, and how much faster than the baseline a time is.

    Of a single length, they are bars. Other pictures of a measure are drawn where `--view` names them, and on the page.

    Attributes:
        quantities: those that have panels; of an audit one is drawn. Empty: all.
    """

    quantities: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rows(View):
    """A table: a row for each combination of `by`, a column for each quantity.

    Attributes:
        by: columns, from the outermost to the innermost; numbers ascend, text keeps the order of the records.
        quantities: in the order of the columns; those that no record has are left out.
        always: columns of `by` that are shown even where all rows agree in them.
        headings: the first columns of `by`, written as a line above the rows that agree in them.
        middle: a column of `by` with numbers: of rows that agree in the others, only the one at its middle is kept.
        plain: quantities whose interval is left out.
        pareto: quantities to minimise: rows that no other row with the same `among` beats in all of them get a mark.
        among: columns within which rows compete for that mark.
    """

    is_table = True
    by: tuple[str, ...]
    quantities: tuple[str, ...]
    always: tuple[str, ...] = ()
    headings: tuple[str, ...] = ()
    middle: str = ""
    plain: tuple[str, ...] = ()
    pareto: tuple[str, ...] = ()
    among: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Lines(View):
    """Lines of a quantity against a column of numbers, or of its course against the iteration.

    Attributes:
        quantities: one: a panel for each value of `panels`. Several: a row of panels for each, quantities side by side;
            those that no record has are left out.
        x: the column of numbers; left out where `trace` is set.
        trace: draw `detail["trace"]` against its index. Entry i is the value after i steps, entry 0 that of the
            start; None stands for a number that is not finite.
        series: the column that tells the lines apart.
        reference: a quantity drawn as thin dashed lines, such as the best possible error; "" for none.
        reference_by: the column that tells these lines apart.
        level: where to draw a horizontal line, such as a tolerance.
        limits: of the axis of values; lines that diverge leave the panel there.
        span: a quantity whose values are places on the axis of `x`, told apart as the lines are: each is drawn as an
            upright line with its interval shaded, more than three below each other; "" for none.
    """

    quantities: tuple[str, ...]
    series: str
    x: str = ""
    trace: bool = False
    panels: str = ""
    log_x: bool = False
    log_y: bool = True
    reference: str = ""
    reference_by: str = ""
    level: float | None = None
    limits: tuple[float, float] | None = None
    span: str = ""


@dataclass(frozen=True, kw_only=True)
class Heatmap(View):
    """A quantity over two columns, written into coloured cells: dark is much, hatched is a record without a value."""

    quantity: str
    x: str
    y: str
    panels: str = ""
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Scatter(View):
    """Points of two quantities, both to be minimised: those on the Pareto front are filled and joined by steps.

    Attributes:
        x, y: the quantities of one point, which are two records that agree in `series`, `point` and `panels`.
        series: the column that gives colour and marker.
        point: the column that tells the points of a series apart; a thin line follows it, and its value is written
            beside them.
    """

    x: str
    y: str
    series: str
    point: str = ""
    panels: str = ""
    log_x: bool = True
    log_y: bool = True


@dataclass(frozen=True, kw_only=True)
class Dots(View):
    """A quantity beside each value of a column of names, with intervals: to compare a few choices.

    Attributes:
        y: the column of names, one line of dots each.
        series: the column that gives colour and marker; "" for one kind of dots.
        reference: a second quantity, drawn as ticks on the same line; "" for none.
    """

    quantity: str
    y: str
    reference: str = ""
    series: str = ""
    panels: str = ""
    log_x: bool = False


@dataclass(frozen=True, kw_only=True)
class Fitted(View):
    """A cost against the tokens on logarithmic axes: marks where it was measured, and the curve fitted to each series.

    Attributes:
        quantity: the cost.
        fitted: the quantity whose records have a curve in `detail["curve"]`, pairs of tokens and cost, the lengths at
            which its exponent changes in `detail["breaks"]`, and their exponent as value; of those, the records whose
            coordinate `cost` is `cost`.
        beyond: the quantity of extrapolated costs, drawn dashed.
        series: the column that gives colour and marker.
    """

    quantity: str
    fitted: str
    cost: str
    beyond: str
    series: str
    panels: str = ""


@dataclass(frozen=True, kw_only=True)
class Roofline(View):
    """FLOP a second against FLOP a byte of each time, below the machine's two ceilings, on logarithmic axes.

    It reads what records of times carry in `detail["work"]` and `detail["limit"]`; those without are left out.

    Attributes:
        quantity: the time, in seconds.
        series: the column that gives colour and marker; a thin line follows its tokens.
    """

    quantity: str
    series: str
    panels: str = ""
