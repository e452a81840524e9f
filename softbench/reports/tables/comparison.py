"""Comparisons for readers: a table for each measure, one line that sums up, and flat rows for CSV and JSON Lines."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from softbench.compare import verdicts
from softbench.compare.sides import Side
from softbench.compare.verdicts import Comparison, Row, Terms
from softbench.records import Record
from softbench.records import frame as frames
from softbench.reports import format
from softbench.reports import rows as reports
from softbench.reports.rows import POINT, phrase
from softbench.reports.tables.text import Column, Notes, Table, build

_TIME = "time of the head over that of the base (below 1x is faster), with its 95 % interval"
_RATE = "rate of the head over that of the base (above 1x is faster), with its 95 % interval"
_UNSAID = {"causal": "-"}  # where a record that does not say it says something all the same
_COUNTS = {"B": "bytes", "flop": "operations"}


def tables(comparison: Comparison, base: Side, head: Side, terms: Terms, *, everything: bool = False) -> list[Table]:
    """One table for each measure, unit and kind of quantity that has something to show, in the order of the cases.

    Exact numbers that are the same are left to the summary, unless `everything` is asked for.
    """
    shown: dict[tuple[str, ...], list[Row]] = {}
    for row in comparison.rows:
        if everything or row.verdict != verdicts.SAME or verdicts.is_time(row.record):
            known = verdicts.quantity(row.record)
            shown.setdefault((row.record.measure, known.unit, known.kind), []).append(row)
    return [_table(rows, comparison, base, head, terms) for rows in shown.values()]


def summary(comparison: Comparison) -> str:
    """`2 slower, 1 inconclusive, 30 same.`"""
    parts = [f"{format.count(count)} {verdict}" for verdict, count in comparison.counts.items()]
    return ", ".join(parts) + "." if parts else "Nothing to compare."


def flat(comparison: Comparison) -> list[dict[str, Any]]:
    """One mapping a case, in SI units: what it is, both values, ratio, interval, verdict. JSON can hold all of it."""
    return [_flat(row) for row in comparison.rows]


def to_csv(comparison: Comparison) -> str:
    """The flat rows as CSV."""
    import pandas as pd

    rows = [{k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in flat(comparison)]
    return str(pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def _flat(row: Row) -> dict[str, Any]:
    record = row.record
    names = ("measure", "quantity", "unit", "label", "impl", *POINT, "rows", "cols", "coords")
    return {name: getattr(record, name) for name in names} | {
        "base": _short(row.values[0], 12), "head": _short(row.values[1], 12),
        "base_status": row.base.status if row.base else None, "head_status": row.head.status if row.head else None,
        "ratio": _short(row.ratio), "low": _short(row.low), "high": _short(row.high), "margin": _short(row.margin),
        "units": row.units, "verdict": row.verdict, "note": row.note}


def _short(value: float | None, digits: int = 6) -> float | None:
    """Six digits, as no ratio of times has more; None where JSON has no such number."""
    return None if value is None or math.isinf(value) else float(f"{value:.{digits}g}")


def _table(rows: Sequence[Row], comparison: Comparison, base: Side, head: Side, terms: Terms) -> Table:
    first = rows[0].record
    timed = any(row.low is not None for row in rows)
    notes = Notes()
    captions = [f"{first.measure}: {_how(first)}.",
                f"base: {_origin(base, rows, 'base')}; head: {_origin(head, rows, 'head')}", *_captions(rows)]
    table = build(captions, [*_point_columns(rows, named=not base.label), *_value_columns(timed)], rows,
                  lambda row: notes.mark([row.note]))
    above = [*_means(rows, comparison), _terms(rows, terms)] if timed else []
    return replace(table, footnotes=[*above, *notes.lines()])


def _how(record: Record) -> str:
    """The first caption of a table, which says how to read its ratio."""
    known = verdicts.quantity(record)
    if known.kind == "time":
        return _TIME if known.unit == "s" else _RATE
    if known.kind == "exact":
        return f"{known.counts or _COUNTS.get(known.unit, 'counts')} of the head over those of the base; exact"
    if known.kind == "seeded":
        return "result of the head over that of the base; seeded, so that it should not change"
    return "head over base; what follows from times is not judged"


_Columns = Iterator[tuple[Column, Callable[[Row], str]]]


def _value_columns(timed: bool) -> _Columns:
    yield Column("base"), lambda row: _value(row.base, row.values[0])
    yield Column("head"), lambda row: _value(row.head, row.values[1])
    yield Column("ratio"), lambda row: format.ratio(row.ratio)
    if timed:
        yield Column("interval"), _interval
    yield Column("verdict", right=False), lambda row: row.verdict


def _value(record: Record | None, value: float | None) -> str:
    if record is None:
        return format.MISSING
    if record.status != "ok" or value is None:
        return record.status if record.status != "ok" else format.MISSING
    if record.unit == "1" and float(value).is_integer():
        return format.count(value)
    return format.measured(value, record.unit)


def _interval(row: Row) -> str:
    if row.low is None or row.high is None or row.high > 100 * row.low:  # says nothing
        return format.MISSING
    return f"{row.low:.3f}..{row.high:.3f}" if row.high < 10 else format.span(row.low, row.high, "1")


def _point_columns(rows: Sequence[Row], *, named: bool) -> _Columns:
    """The columns that tell the cases apart: the varying parts of their points, tokens or image, and the subject."""
    for name in (name for name, values in _places(rows).items() if len(values) > 1):
        yield Column(name, right=False, wraps=True), partial(_part, name)
    if any(row.record.tokens > 1 for row in rows):
        if any(row.record.model and row.record.rows != 1 for row in rows):  # a sequence has one row
            yield Column("image"), lambda r: f"{r.record.rows}x{r.record.cols}"
        else:
            yield Column("tokens"), lambda r: format.count(r.record.tokens)
    if named and any(row.record.label for row in rows):
        header = "model" if all(row.record.model for row in rows) else "attention"
        yield Column(header, right=False, wraps=True), lambda r: format.text(r.record.label)


def _part(name: str, row: Row) -> str:
    return _place(row.record).get(name, _UNSAID.get(name, format.MISSING))


def _place(record: Record) -> dict[str, str]:
    """Where a case stands, as text: quantity, point and coordinates; of grids that are as square as can be, nothing."""
    place = {"quantity": record.quantity} | {name: format.text(getattr(record, name)) for name in POINT
                                             if name != "model" and getattr(record, name)}
    if record.seed is not None:
        place["seed"] = str(record.seed)
    if record.grid[0] > 1 and not record.model:
        place["grid"] = f"{record.rows}x{record.cols}"
    return place | {name: format.text(value) for name, value in record.coords.items() if name != "task"}


def _places(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The distinct values of each part of a point, in the order met."""
    places: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, value in _place(row.record).items():
            places.setdefault(name, {})[value] = None
    for name, unsaid in _UNSAID.items():
        if name in places and any(name not in _place(row.record) for row in rows):
            places[name][unsaid] = None
    if len(places.get("grid", {})) == len({row.record.tokens for row in rows}):
        places.pop("grid", None)  # the number of tokens tells the grids apart
    return {name: list(values) for name, values in places.items()}


def _captions(rows: Sequence[Row]) -> list[str]:
    what = [phrase(name, values[0]) for name, values in _places(rows).items()
            if len(values) == 1 and name not in ("quantity", "grid")]
    records = [row.head for row in rows if row.head] or [row.record for row in rows]
    where = reports.made_at([reports.row(frames.columns(record)) for record in records])
    return [line for line in (", ".join(what), where) if line]


def _origin(side: Side, rows: Sequence[Row], which: str) -> str:
    """The side's name, and the commits that its numbers were made at."""
    records: list[Record] = [record for row in rows if (record := getattr(row, which))]
    made_at = ((str(r.environment["commit"])[:12], " with changes" if r.environment.get("dirty") else "")
               for r in records if r.environment.get("commit"))
    commits = dict.fromkeys(map("".join, made_at))
    return side.name + (f" ({', '.join(commits)})" if commits else "")


def _means(rows: Sequence[Row], comparison: Comparison) -> list[str]:
    """The geometric mean of each quantity that has several ratios."""
    counts = Counter(row.record.quantity for row in rows if row.low is not None)
    means = {name: comparison.mean_ratio(rows[0].record.measure, name) for name, count in counts.items() if count > 1}
    return [f"Geometric mean of {name}: {format.ratio(mean)} over {counts[name]} cases."
            for name, mean in means.items() if mean is not None]


def _terms(rows: Sequence[Row], terms: Terms) -> str:
    """The sentences on when something counts as a change, and on what the intervals are over."""
    wide = max((row.margin for row in rows if row.margin is not None and _is_noise(row, terms)), default=0.0)
    kinds = dict.fromkeys(row.units.partition(" ")[2].removesuffix("s") + "s" for row in rows if row.units)
    least = f"{100 * wide:.2g} %, twice the noise of this machine," if wide else f"{100 * terms.threshold:g} %"
    single = " Rounds of one run do not show how runs differ: record several runs a side where it matters."
    return (f"A change counts from {least} and {format.tick(terms.floor, 's')} on; times are geometric means over"
            f" {' and '.join(kinds)}, as are intervals.{single if 'rounds' in kinds else ''}")


def _is_noise(row: Row, terms: Terms) -> bool:
    """True where the margin of a case comes from the noise of its machine."""
    known = terms.run_noise if "round" in row.units else terms.noise
    return 2 * known.get(str(row.record.environment.get("machine")), 0.0) > terms.threshold


def name(row: Row, among: Sequence[Row]) -> str:
    """The name of a case beside an axis: its subject, and whatever tells it apart from the others."""
    varying = [n for n, values in _places(among).items() if len(values) > 1]
    parts = [format.text(row.record.label), *(_place(row.record).get(n, "") for n in varying)]
    if len({other.record.measure for other in among}) > 1:
        parts.insert(0, row.record.measure)
    if row.record.model:
        parts.append(f"{row.record.rows}x{row.record.cols}")
    elif row.record.tokens > 1:
        parts.append(format.tokens(row.record.tokens))
    return ", ".join(filter(None, parts))
