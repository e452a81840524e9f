"""The `Cases` view: a row for each subject at each point, and beside each number what it says against the baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

from softbench.contracts.quantities import Quantity
from softbench.records.views import Cases
from softbench.reports import format
from softbench.reports.rows import FOREIGN_CPU, Row
from softbench.reports.sheet import Entry, Sheet, sheets
from softbench.reports.tables.text import Column, Notes, Table, build

AGREEMENT = 0.01  # counts of FLOP agree where they differ by at most this share
_AFTER_SIZE = ("grid", "part")  # columns of the point that stand behind the number of tokens or the image
_Columns = Iterator[tuple[Column, Callable[[Entry], str]]]


def tables(view: Cases, rows: Sequence[Row], baseline: str) -> list[Table]:
    """The tables of a measure: attentions and models apart."""
    return [_table(view, sheet) for sheet in sheets(rows, baseline, view.quantities)]


def _table(view: Cases, sheet: Sheet) -> Table:
    notes = Notes()
    table = build([*_headlines(view, sheet), *sheet.captions], [*_point_columns(sheet), *_value_columns(sheet)],
                  sheet.entries, partial(_marks, notes))
    footnotes = notes.lines()
    if any(row.disturbed for row in sheet.rows):
        footnotes.insert(0, "!  The share of the CPU that other processes used while this was measured: above"
                            f" {format.share(FOREIGN_CPU)} a time is doubtful.")
    breaks = [i for i, (one, other) in enumerate(pairwise(sheet.entries), 1)
              if one.point != other.point and len(sheet.names) > 1]
    return replace(table, breaks=breaks, footnotes=footnotes)


def _marks(notes: Notes, entry: Entry) -> list[str]:
    """The entry's flags and footnote numbers."""
    rows = entry.numbers.values()
    flags = dict.fromkeys(f"! {format.share(row.foreign_cpu)}" for row in rows if row.disturbed)
    return [*flags, *notes.mark(row.note for row in rows)]


def _headlines(view: Cases, sheet: Sheet) -> list[str]:
    """The captions on what is shown, and on how its ratios are to be read."""
    quantities = list(sheet.known.values())
    times = [known for known in quantities if known.is_duration]
    first = format.text(view.title)
    if sheet.models:
        first += "".join(f" images/s: batch over {known.header}." for known in times if known.per_image)
    if _has_floors(sheet):
        first += (" floor: the least time that this machine's bandwidth and FLOP rate allow; of limit: floor over"
                  " median.")
    lines = [first]
    if any(known.unit == "flop" for known in quantities):
        per = " GMAC are of one image." if sheet.models else ""
        lines.append(f"FLOP = 2 x MAC: a multiply-add is two operations. Papers often call GMAC GFLOPs.{per}")
    if sheet.compares and times:
        lines.append(f"vs {sheet.baseline}: how many times faster than {sheet.baseline} (above 1x is faster).")
    if sheet.compares and any(map(_has_ratio, quantities)):
        lines.append(f"of {sheet.baseline}: the value over that of {sheet.baseline} (below 1x is less).")
    return lines


def _point_columns(sheet: Sheet) -> _Columns:
    for name in (n for n in sheet.varying if n not in _AFTER_SIZE):
        numeric = all(isinstance(entry.at(name), int | float | None) for entry in sheet.entries)
        yield Column(format.text(name.removeprefix("env.")), right=numeric, wraps=not numeric), partial(_place, name)
    if sheet.models:
        yield Column("image"), lambda e: e.at("grid")
    else:
        yield Column("tokens"), lambda e: format.count(e.tokens)
    for name in (n for n in _AFTER_SIZE if n in sheet.varying and not (sheet.models and n == "grid")):
        yield Column(name, right=False, wraps=True), partial(_place, name)
    yield Column("model" if sheet.models else "attention", right=False, wraps=True), lambda e: e.name
    if len(sheet.impls) > 1:
        yield Column("impl", right=False), lambda e: e.at("impl") or ""


def _place(name: str, entry: Entry) -> str:
    return format.text(entry.at(name))


def _value_columns(sheet: Sheet) -> _Columns:
    """The columns of each quantity: of a time, what its samples say; of an audit, whether its counts agree."""
    audits: dict[str, list[str]] = {}
    for name, known in sheet.known.items():
        yield Column(known.header), partial(_value, name)
        if known.audit:
            audits.setdefault(known.audit, []).append(name)
        else:
            yield from _time_columns(sheet, known) if known.is_duration else _plain_columns(sheet, known)
    for counts in audits.values():
        if all(sheet.known[count].unit == "flop" for count in counts):
            yield Column("GMAC"), partial(_gmac, counts, sheet.models)
        yield Column("agree", right=False), partial(_agreement, counts)


def _time_columns(sheet: Sheet, known: Quantity) -> _Columns:
    name = known.name
    yield Column("IQR"), _of(name, _iqr)
    if sheet.models and known.per_image:
        yield Column("images/s"), _of(name, lambda r: format.number(r.at("batch") / r.value if r.value else None))
    if sheet.compares:
        yield Column(f"vs {sheet.baseline}"), lambda e: format.ratio(e.faster(name))
    if _has_floors(sheet):
        yield Column("floor", spare=1), _of(name, lambda row: format.quantity(row.floor, row.unit))
        yield Column("of limit"), _of(name, lambda row: format.share(row.floor and row.value and row.floor / row.value))
    yield Column("samples", spare=2), _of(name, lambda row: format.count(row.samples))


def _plain_columns(sheet: Sheet, known: Quantity) -> _Columns:
    name = known.name
    rows = [row for entry in sheet.entries if (row := entry.number(name)) and row.trusted]
    if any(row.quartiles[0] != row.quartiles[1] for row in rows if row.samples):
        yield Column("IQR"), _of(name, _iqr)
    if sheet.compares and rows and _has_ratio(known):
        yield Column(f"of {sheet.baseline}"), lambda e: format.ratio(e.ratio(name))


def _has_floors(sheet: Sheet) -> bool:
    return any(row.floor is not None for row in sheet.rows)


def _has_ratio(known: Quantity) -> bool:
    """True where a plain column stands beside its ratios: not of a time, of an audit, or of a count that is no cost."""
    return not known.is_duration and not known.audit and (known.kind != "exact" or known.better is not None)


def _of(name: str, write: Callable[[Row], str]) -> Callable[[Entry], str]:
    """A cell about the number of a quantity, where it can be trusted."""
    return lambda entry: write(row) if (row := entry.number(name)) and row.trusted else format.MISSING


def _value(name: str, entry: Entry) -> str:
    """The value, or the status that says why there is none."""
    row = entry.number(name)
    if row is None:
        return format.MISSING
    return format.quantity(row.value, row.unit) if row.status == "ok" else row.status


def _iqr(row: Row) -> str:
    return format.span(*row.quartiles, row.unit)


def _gmac(names: Sequence[str], models: bool, entry: Entry) -> str:
    flop = next((v for name in names if (v := entry.value(name)) is not None), None)
    return format.gmac(None if flop is None else flop / (entry.at("batch") if models else 1))


def _agreement(names: Sequence[str], entry: Entry) -> str:
    """`ok` where all counts exist and agree, `no` where none stood the check, otherwise how far they are apart."""
    counts = [v for name in names if (v := entry.value(name)) is not None]
    if not counts and any((row := entry.number(name)) and row.status == "failed" for name in names):
        return "no"
    if len(counts) < 2:
        return format.MISSING
    apart = (max(counts) - min(counts)) / max(counts) if max(counts) else 0.0
    if apart > AGREEMENT:
        return f"{format.share(apart)} off"
    return "ok" if len(counts) == len(names) else f"{len(counts)} of {len(names)}"
