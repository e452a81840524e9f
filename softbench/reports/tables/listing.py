"""The `Rows` view: a row for each combination of columns, a column for each quantity; and tasks without a result."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, groupby

from softbench.records import WHOLE_TASK
from softbench.records.views import Rows
from softbench.reports import format
from softbench.reports.rows import (
    Key,
    Row,
    captions,
    described,
    entry,
    front,
    grouped,
    ranks,
    select,
    telling,
    word,
)
from softbench.reports.tables.text import Column, Notes, Table, build

_MARK, _DOUBT = "*", "!"


@dataclass(frozen=True)
class _Line:
    """A row of the table: its entries in the columns, and its numbers by quantity."""

    key: Key
    numbers: dict[str, Row]


def table(view: Rows, rows: Sequence[Row]) -> Table | None:
    """The table of a view, or None where there is nothing for it."""
    rows = _middle(view, select(view, rows, view.quantities))
    if not rows:
        return None
    added = telling(rows, view.by)
    by = [*added, *view.by]
    lines = [_Line(key, {row.quantity: row for row in same}) for key, same in grouped(rows, by).items()]
    varying = [i for i in range(len(by)) if len({line.key[i] for line in lines}) > 1 or by[i] in view.always]
    above = [i for i in varying if by[i] in view.headings]
    present = {row.quantity for row in rows}
    quantities = [quantity for quantity in view.quantities if quantity in present]
    whole = {q for q in quantities if format.whole(row.value for row in rows if row.quantity == q)}
    columns = []
    for i in (i for i in varying if i not in above):
        numeric = all(isinstance(line.key[i], int | float | None) for line in lines)
        columns.append((Column(word(view, by[i]), right=numeric, wraps=not numeric), partial(_place, by[i], i)))
    for quantity in quantities:
        columns.append((Column(word(view, quantity)),
                        partial(_cell, view, quantity, quantity in whole, quantity == quantities[0])))
    best, notes = _best(view, lines, [*added, *view.among]), Notes()

    def marks(line: _Line) -> list[str]:
        return [*([_MARK] if line.key in best else []), *notes.mark(row.note for row in line.numbers.values())]

    built = build([view.title, *captions(rows, view, [by[i] for i in varying])], columns, lines, marks)
    headings = _headings(view, by, lines, above)
    breaks = [start for start in headings if start] if above else _breaks(lines, varying)
    return replace(built, breaks=breaks, headings=headings, footnotes=[*_footnotes(view, rows), *notes.lines()])


def unfinished(rows: Iterable[Row]) -> Table | None:
    """The tasks that gave no result, each with the reason."""
    lost = [row for row in rows if row.detail.get(WHOLE_TASK)]
    if not lost:
        return None
    notes = Notes()
    columns = [(Column("task", right=False, wraps=True), lambda row: format.text(row.at("task"))),
               (Column("status", right=False), lambda row: row.status)]
    built = build([f"{lost[0].at('measure')}: tasks without a result."], columns, lost,
                  lambda row: notes.mark([row.note]))
    return replace(built, footnotes=notes.lines())


def _middle(view: Rows, rows: list[Row]) -> list[Row]:
    """The rows at the middle of `view.middle` among those that agree in the other columns; all if it is none."""
    if not view.middle:
        return rows
    others = [column for column in view.by if column != view.middle]
    kept = []
    for same in grouped(rows, others).values():
        places = list(ranks(row.at(view.middle) for row in same))
        kept += [row for row in same if row.at(view.middle) == places[len(places) // 2]]
    return kept


def _headings(view: Rows, by: Sequence[str], lines: Sequence[_Line], above: Sequence[int]) -> dict[int, str]:
    """The texts above rows, by the row that each precedes: wherever one of these columns, or one before, changes."""
    headings: dict[int, str] = {}
    before: Key | None = None
    for number, line in enumerate(lines):
        here = line.key[: above[-1] + 1] if above else ()
        if above and here != before:
            headings[number] = ", ".join(described(view, by[i], line.key[i]) for i in above)
        before = here
    return headings


def _place(column: str, index: int, line: _Line) -> str:
    return entry(column, line.key[index])


def _cell(view: Rows, quantity: str, whole: bool, first: bool, line: _Line) -> str:
    """The text of a number. A row whose one record has no value shows its status first, and nothing more."""
    only = next(iter(line.numbers.values()))
    if len(line.numbers) == 1 and only.value is None:
        return only.word if first else format.MISSING
    row = line.numbers.get(quantity)
    if row is None or row.value is None:
        return row.word if row else format.MISSING
    low, high = row.interval
    if row.printed:
        text = row.printed
    elif form := view.forms.get(quantity, ""):
        text = format.FORMS[form](row.value)
    elif quantity not in view.plain and not math.isnan(low):
        text = format.estimate(row.value, (high - low) / 2, row.unit)
    else:
        text = format.tally(row.value) if whole and row.unit == "1" else format.measured(row.value, row.unit)
    return text + ("" if row.trusted else _DOUBT)


def _best(view: Rows, lines: Sequence[_Line], among: Sequence[str]) -> set[Key]:
    """The rows on the Pareto front of those that agree with them in the columns `among`."""
    fields: dict[Key, dict[Key, list[float]]] = {}
    for line in lines:
        numbers = [row for quantity in view.pareto if (row := line.numbers.get(quantity))]
        values = [value for row in numbers if (value := row.sound) is not None]
        if values and len(values) == len(view.pareto):
            fields.setdefault(numbers[0].key(among), {})[line.key] = values
    return {key for field in fields.values() for key, wins in zip(field, front(list(field.values())), strict=True)
            if wins}


def _breaks(lines: Sequence[_Line], varying: Sequence[int]) -> list[int]:
    """Rows that open a new group of the outermost column, unless it and the one before have a single row."""
    if len(varying) < 2:
        return []
    sizes = [len(list(group)) for _, group in groupby(line.key[varying[0]] for line in lines)]
    starts = list(accumulate(sizes))[:-1]
    return [start for start, before, after in zip(starts, sizes, sizes[1:], strict=False) if before > 1 or after > 1]


def _footnotes(view: Rows, rows: Sequence[Row]) -> list[str]:
    lines = [view.note] if view.note else []
    if any(not math.isnan(row.interval[0]) and row.quantity not in view.plain for row in rows):
        lines.append("±  half of the 95 % confidence interval of the mean.")
    if view.pareto:
        names = [word(view, quantity) for quantity in view.pareto]
        within = f" of the same {' and '.join(word(view, c) for c in view.among)}" if view.among else ""
        lines.append(f"{_MARK}  on the Pareto front of {' and '.join(names)}: no other row{within} is as low in each"
                     " and lower in one.")
    if doubts := dict.fromkeys(row.status for row in rows if row.value is not None and row.status != "ok"):
        lines.append(f"{_DOUBT}  a number with status {', '.join(doubts)}: do not rely on it.")
    return lines
