"""Tables of a study: its `Rows` views, and the tasks that gave no result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any

from softbench.records.views import Rows
from softbench.reports import format
from softbench.reports._seen import (
    Key,
    Seen,
    captions,
    described,
    entry,
    front,
    grouped,
    select,
    telling,
    whole_tasks,
    word,
)
from softbench.reports.sheet import ranks
from softbench.reports.tables import Column, Table

if TYPE_CHECKING:
    import pandas as pd

_MARK, _DOUBT = "*", "!"


def table(view: Rows, frame: pd.DataFrame) -> Table | None:
    """The table of a view, or None where the frame holds nothing for it."""
    found = _middle(view, select(view, frame, view.quantities))
    if not found:
        return None
    by = [*telling(found, view.by), *view.by]
    rows = [(key, _by_quantity(group)) for key, group in grouped(found, by).items()]
    varying = [i for i in range(len(by)) if len({key[i] for key, _ in rows}) > 1 or by[i] in view.always]
    above = [i for i in varying if by[i] in view.headings]
    present = {seen.quantity for seen in found}
    quantities = [quantity for quantity in view.quantities if quantity in present]
    best = _best(view, [numbers for _, numbers in rows], [*by[:len(by) - len(view.by)], *view.among])
    whole = {q for q in quantities if format.whole(seen.value for seen in found if seen.quantity == q)}
    notes: dict[str, int] = {}
    cells = []
    for number, (key, numbers) in enumerate(rows):
        line = [entry(by[i], key[i]) for i in varying if i not in above]
        line += _cells(numbers, quantities, whole, view)
        marks = [_MARK] * best[number]
        marks += [f"[{notes.setdefault(seen.note, len(notes) + 1)}]" for seen in _noted(numbers)]
        cells.append([*line, " ".join(marks)])
    columns = [Column(word(view, by[i]), right=_numeric(rows, i), wraps=not _numeric(rows, i))
               for i in varying if i not in above]
    columns += [Column(word(view, quantity)) for quantity in quantities]
    if any(line[-1] for line in cells):
        columns.append(Column("notes", right=False))
    else:
        cells = [line[:-1] for line in cells]
    shown = [by[i] for i in varying]
    keys = [key for key, _ in rows]
    headings = _headings(view, by, keys, above)
    breaks = [start for start in headings if start] if above else _breaks(keys, varying)
    return Table([view.title, *captions(found, view, shown)], columns, cells, breaks, _footnotes(view, found, notes),
                 headings)


def unfinished(study: str, frame: pd.DataFrame) -> Table | None:
    """The tasks that gave no result, each with the reason."""
    found = whole_tasks(frame)
    if not found:
        return None
    notes: dict[str, int] = {}
    rows = [[format.text(seen.row.get("task")), seen.status, f"[{notes.setdefault(seen.note, len(notes) + 1)}]"]
            for seen in found]
    columns = [Column("task", right=False, wraps=True), Column("status", right=False), Column("notes", right=False)]
    return Table([f"{study}: tasks without a result."], columns, rows, [],
                 [f"[{number}] {note}" for note, number in notes.items()])


def _by_quantity(group: Sequence[Seen]) -> dict[str, Seen]:
    return {seen.quantity: seen for seen in group}


def _middle(view: Rows, found: list[Seen]) -> list[Seen]:
    """The records at the middle of `view.middle` among those that agree in the other columns; all if it is none."""
    if not view.middle:
        return found
    groups: dict[Key, dict[Any, None]] = {}
    others = [column for column in view.by if column != view.middle]
    for seen in found:
        groups.setdefault(seen.key(others), {})[seen.at(view.middle)] = None
    middles = {key: list(ranks(values))[len(values) // 2] for key, values in groups.items()}
    return [seen for seen in found if seen.at(view.middle) == middles[seen.key(others)]]


def _headings(view: Rows, by: Sequence[str], keys: Sequence[Key], above: Sequence[int]) -> dict[int, str]:
    """The lines above rows, by the row that each precedes: wherever one of these columns, or one before, changes."""
    found: dict[int, str] = {}
    before: Key | None = None
    for number, key in enumerate(keys):
        here = key[: above[-1] + 1] if above else ()
        if above and here != before:
            found[number] = ", ".join(described(view, by[i], key[i]) for i in above)
        before = here
    return found


def _cells(numbers: dict[str, Seen], quantities: Sequence[str], whole: set[str], view: Rows) -> list[str]:
    """The text of a row's numbers. A row whose one record has no value shows its status first, and nothing more."""
    only = next(iter(numbers.values()))
    if len(numbers) == 1 and only.value is None:
        return [only.word] + [format.MISSING] * (len(quantities) - 1)
    return [_cell(numbers.get(quantity), quantity in whole, view.forms.get(quantity, ""), quantity in view.plain)
            for quantity in quantities]


def _cell(seen: Seen | None, whole: bool, form: str, plain: bool) -> str:
    if seen is None:
        return format.MISSING
    if seen.value is None:
        return seen.word
    half = (seen.high - seen.low) / 2
    if seen.printed:
        text = seen.printed
    elif form:
        text = format.FORMS[form](seen.value)
    elif not (plain or math.isnan(half)):
        text = format.estimate(seen.value, half, seen.unit)
    else:
        text = format.tally(seen.value) if whole and seen.unit == "1" else format.measured(seen.value, seen.unit)
    return text + ("" if seen.trusted else _DOUBT)


def _noted(numbers: dict[str, Seen]) -> list[Seen]:
    """One record for each different note of a row."""
    return list({seen.note: seen for seen in numbers.values() if seen.note}.values())


def _best(view: Rows, rows: Sequence[dict[str, Seen]], among: Sequence[str]) -> list[bool]:
    """Which rows are on the Pareto front of those that agree with them in the columns `among`."""
    marks = [False] * len(rows)
    fields: dict[Key, dict[int, list[float]]] = {}
    for number, numbers in enumerate(rows):
        found = [seen for quantity in view.pareto if (seen := numbers.get(quantity)) and seen.trusted]
        if found and len(found) == len(view.pareto):
            values = [seen.value for seen in found if seen.value is not None]
            fields.setdefault(found[0].key(among), {})[number] = values
    for field in fields.values():
        for number, wins in zip(field, front(list(field.values())), strict=True):
            marks[number] = wins
    return marks


def _numeric(rows: Sequence[tuple[Key, dict[str, Seen]]], index: int) -> bool:
    return all(isinstance(key[index], int | float | None) for key, _ in rows)


def _breaks(keys: Sequence[Key], varying: Sequence[int]) -> list[int]:
    """Rows that open a new group of the outermost column, unless it and the one before have a single row."""
    if len(varying) < 2:
        return []
    outer = [key[varying[0]] for key in keys]
    sizes = [len(list(group)) for _, group in groupby(outer)]
    starts = list(accumulate(sizes))[:-1]
    return [start for start, before, after in zip(starts, sizes, sizes[1:], strict=False) if before > 1 or after > 1]


def _footnotes(view: Rows, found: Sequence[Seen], notes: dict[str, int]) -> list[str]:
    lines = [view.note] if view.note else []
    if any(not math.isnan(seen.low) and seen.quantity not in view.plain for seen in found):
        lines.append("±  half of the 95 % confidence interval of the mean.")
    if view.pareto:
        names = [word(view, quantity) for quantity in view.pareto]
        within = f" of the same {' and '.join(word(view, c) for c in view.among)}" if view.among else ""
        lines.append(f"{_MARK}  on the Pareto front of {' and '.join(names)}: no other row{within} is as low in each"
                     " and lower in one.")
    if doubts := dict.fromkeys(seen.status for seen in found if seen.value is not None and seen.status != "ok"):
        lines.append(f"{_DOUBT}  a number with status {', '.join(doubts)}: do not rely on it.")
    return [*lines, *(f"[{number}] {note}" for note, number in notes.items())]
