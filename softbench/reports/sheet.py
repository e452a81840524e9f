"""A sheet: the records of one measure arranged for a reader, from which tables and pictures of cases are both drawn.

Attentions by themselves and whole models have sheets of their own: the tokens of a model are its pixels, and its size
is written as an image.

It settles once what both need: which columns are the same throughout, which tell points apart, what each subject is
called, which subject is the baseline, and which of its numbers a number may be compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from softbench.case import WHOLE
from softbench.contracts import quantities
from softbench.contracts.quantities import Quantity
from softbench.errors import UsageError
from softbench.machine.environment import COMPARABLE
from softbench.reports import format
from softbench.reports.rows import FOREIGN_CPU, POINT, Key, Row, coordinates, grouped, made_at, phrase

BASELINE = "softmax"  # of attentions, where none is named; of models, the first is
_SUBJECT = "sheet.subject"  # the column with what a row's subject is called
_NOT_OF_MODELS = ("model", "heads", "head_dim", "causal", "inputs")


@dataclass(frozen=True)
class Entry:
    """One subject at one point.

    Attributes:
        point: what stands in the sheet's columns, by which entries may be compared.
        numbers: its rows by quantity. A case that failed as a whole has one, whose status stands for all quantities.
        base: the numbers of the baseline at the same point.
    """

    point: Key
    numbers: dict[str, Row]
    base: dict[str, Row]

    @property
    def name(self) -> str:
        """The subject: its label, with what tells it from others of that label."""
        return str(self.at(_SUBJECT))

    @property
    def tokens(self) -> int:
        return int(self.at("tokens") or 0)

    def at(self, column: str) -> Any:
        """The entry of all its rows in a column of the point."""
        return next(iter(self.numbers.values())).at(column)

    def number(self, quantity: str) -> Row | None:
        """The row of a quantity."""
        return _number(self.numbers, quantity)

    def value(self, quantity: str) -> float | None:
        """The value of a quantity, where it can be trusted."""
        row = self.number(quantity)
        return row.sound if row else None

    def ratio(self, quantity: str) -> float | None:
        """The value over that of the baseline at the same point; None where either is missing."""
        value, base = self.value(quantity), _number(self.base, quantity)
        return value / base.sound if value is not None and base and base.sound else None

    def faster(self, quantity: str) -> float | None:
        """How many times less it takes than the baseline."""
        ratio = self.ratio(quantity)
        return 1 / ratio if ratio else None


@dataclass(frozen=True)
class Sheet:
    """The entries of one measure: sorted by point, and within a point the baseline first.

    Attributes:
        known: what each quantity is, of those that have a value (of all, where none has), in the order of its columns.
        names: the subjects, the baseline first, then in order of first appearance.
        baseline: the name of the subject that others are compared with, or None.
        varying: columns of the point, besides `tokens`, that differ between entries.
        captions: one line on what was measured and one on where, from all that is the same throughout.
        models: whether the subjects are whole models.
    """

    measure: str
    entries: list[Entry]
    known: dict[str, Quantity]
    names: list[str]
    baseline: str | None
    varying: list[str]
    captions: list[str]
    models: bool

    @property
    def headline(self) -> Quantity:
        """The quantity that the measure is about."""
        return next(iter(quantities.listed(self.measure)), next(iter(self.known.values())))

    @property
    def rows(self) -> list[Row]:
        return [row for entry in self.entries for row in entry.numbers.values()]

    @property
    def impls(self) -> list[str]:
        """The implementations that ran; a case that could not run may have none."""
        return _impls(self.rows)

    @property
    def warning(self) -> str:
        """How many of the numbers other processes disturbed; empty where none."""
        measured = [row for row in self.rows if row.trusted]
        disturbed = sum(row.disturbed for row in measured)
        return (f"Doubtful: during {disturbed} of {len(measured)} measurements other processes used more than"
                f" {format.share(FOREIGN_CPU)} of the CPU.") if disturbed else ""

    @property
    def compares(self) -> bool:
        """True where there is a baseline and something to compare with it."""
        return self.baseline is not None and len(self.names) > 1

    def panels(self) -> list[tuple[dict[str, Any], list[Entry]]]:
        """Entries that differ in nothing but subject and tokens, with what sets them apart from other panels."""
        panels: dict[Key, list[Entry]] = {}
        for entry in self.entries:
            panels.setdefault(tuple(entry.at(column) for column in self.varying), []).append(entry)
        return [(dict(zip(self.varying, key, strict=True)), entries) for key, entries in panels.items()]


def sheets(rows: Iterable[Row], baseline: str = "", order: Sequence[str] = ()) -> list[Sheet]:
    """One sheet for each measure of the rows, in order of first appearance; two where it has attentions and models.

    Args:
        baseline: a label, or the name of an attention or model; where no record has it, nothing is compared. Empty:
            softmax for attentions, for models the first.
        order: quantities that come first; others follow as their plugin lists them.
    Raises:
        UsageError: there are no rows.
    """
    kinds: dict[tuple[str, bool], list[Row]] = {}
    for row in rows:
        kinds.setdefault((format.text(row.at("measure")), bool(row.at("model"))), []).append(row)
    if not kinds:
        raise UsageError("There are no records to show.")
    return [_sheet(measure, same, baseline, order, models) for (measure, models), same in kinds.items()]


def _sheet(measure: str, rows: list[Row], baseline: str, order: Sequence[str], models: bool) -> Sheet:
    rows = [_with(row, "grid", f"{row.at('rows') or 0}x{row.at('cols') or 0}") for row in rows]
    columns = _columns(rows, models)
    rows = [_with(row, _SUBJECT, name) for row, name in zip(rows, _names(rows, columns), strict=True)]
    baseline = baseline or (rows[0].at("label") if models else BASELINE) or ""
    base = next((row.at(_SUBJECT) for column in ("label", "attention", "model") for row in rows
                 if (row.at(column) or "") == baseline), None)
    names = sorted(dict.fromkeys(row.at(_SUBJECT) for row in rows), key=lambda name: name != base)
    points = {point: place for place, point in enumerate(grouped(rows, columns))}
    numbers = {key: {row.quantity: row for row in same}  # the last one counts
               for key, same in grouped(rows, [*columns, _SUBJECT, "impl"]).items()}
    bases = {key[:-2]: own for key, own in reversed(numbers.items()) if key[-2] == base}
    entries = [Entry(key[:-2], own, bases.get(key[:-2], {})) for key, own in numbers.items()]
    entries.sort(key=lambda entry: (points[entry.point], names.index(entry.name)))
    varying = [column for i, column in enumerate(columns) if len({point[i] for point in points}) > 1]
    return Sheet(measure, entries, _known(measure, rows, order), names, base,
                 [column for column in varying if column != "tokens"],
                 _captions(rows, [column for column in columns if column not in varying], models), models)


def _with(row: Row, column: str, entry: str) -> Row:
    return replace(row, columns={**row.columns, column: entry})


def _columns(rows: Sequence[Row], models: bool) -> list[str]:
    """The columns of a point, from the outermost: machines, then the rest, tokens, and the part of a model last.

    Grids are among them where they are all alike, or where a number of tokens has several.
    """
    columns = [*(f"env.{key}" for key in COMPARABLE), *POINT, *(c for c in coordinates(rows) if c != "grid"), "tokens"]
    grids = {row.at("grid") for row in rows}
    if len(grids) == 1 or len({row.at("tokens") for row in rows}) < len({row.key(("tokens", "grid")) for row in rows}):
        columns.append("grid")
    if models:
        columns = [column for column in columns if column not in _NOT_OF_MODELS]
    return sorted(columns, key=lambda column: column == "part")


def _number(numbers: dict[str, Row], quantity: str) -> Row | None:
    if quantity in numbers or len(numbers) != 1:
        return numbers.get(quantity)
    only = next(iter(numbers.values()))
    return only if only.sound is None else None


def _names(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """The name of each row's subject: its label, and whatever tells apart subjects that share one.

    Options that differ anywhere under one label are written behind it, so that no line mixes them; implementations
    are only where two of them ran at the same point.
    """
    labels = [row.at("label") or "" for row in rows]
    traits = [{"attention": row.at("attention")} | row.columns["options"] for row in rows]
    subjects: dict[str, list[dict[str, Any]]] = {}
    impls: dict[Key, set[str]] = {}
    for row, label, own in zip(rows, labels, traits, strict=True):
        subjects.setdefault(label, []).append(own)
        impls.setdefault((label, *row.key(columns)), set()).update({row.at("impl")} - {None})
    differing = {label: [key for key in dict.fromkeys(k for s in same for k in s)
                         if any(s.get(key) != same[0].get(key) for s in same)] for label, same in subjects.items()}
    several = {key[0] for key, ran in impls.items() if len(ran) > 1}
    names = []
    for row, label, own in zip(rows, labels, traits, strict=True):
        extra = [f"{key}={format.text(own.get(key))}" for key in differing[label]]
        extra += [f"impl={row.at('impl') or ''}"] if label in several else []
        names.append(format.text(label + (f" ({', '.join(extra)})" if extra else "")) or "-")
    return names


def _impls(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(impl for row in rows if (impl := row.at("impl"))))


def _captions(rows: Sequence[Row], fixed: Iterable[str], models: bool) -> list[str]:
    same = {column: value for column in fixed if not column.startswith("env.")
            and (value := rows[0].at(column)) is not None}
    if models:
        same = {{"grid": "image"}.get(column, column): value for column, value in same.items()
                if column != "tokens" and (column, value) != ("part", WHOLE)}
    if len(impls := _impls(rows)) == 1:
        same["impl"] = impls[0]
    return [line for line in (", ".join(map(phrase, same, same.values())), made_at(rows)) if line]


def _known(measure: str, rows: Sequence[Row], order: Sequence[str]) -> dict[str, Quantity]:
    every = {row.quantity: row.unit for row in rows}
    valued = {row.quantity for row in rows if row.trusted}
    known = [quantities.of(measure, name, unit) for name, unit in every.items() if name in (valued or every)]
    places = list(dict.fromkeys((*order, *(listed.name for listed in quantities.listed(measure)))))
    known.sort(key=lambda quantity: places.index(quantity.name) if quantity.name in places else len(places))
    return {quantity.name: quantity for quantity in known}
