"""Quantities: what each number of a measure or a study is, in the plugin's own words, as data.

A plugin lists them as `QUANTITIES`, its headline first. Comparisons, gates, tables, pictures and pages read them
through `of`, and know no plugin by name. A number whose plugin is not installed here, or does not list it, is known by
its unit alone: a time is a time, bytes are exact, and a plain number may hold noise, so that no rule judges it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

from softbench import plugins
from softbench.errors import PluginError, UsageError
from softbench.records import UNITS, verbs
from softbench.records.views import Cases, Curves, View

Kind = Literal["time", "exact", "seeded", "derived"]
Better = Literal["less", "more"]
Answer = Literal["", "fastest", "overtaking", "accuracy"]
TIMES = ("s", "image/s", "sample/s")
_LAST = 100
_LOWER = {"lower": "less", "higher": "more"}  # how BETTER said it
_CHOICES = {"unit": UNITS, "kind": get_args(Kind), "better": (*get_args(Better), None), "answers": get_args(Answer)}


@dataclass(frozen=True)
class Quantity:
    """One quantity.

    Attributes:
        name: as its records call it, in words joined by underscores.
        unit: one of `softbench.records.UNITS`.
        kind: how two of its numbers are compared. "time": seconds, or images a second, each with noise. "exact": equal
            or not, as bytes and counts. "seeded": the same within rounding, as errors of drawn inputs. "derived": it
            follows from times or from what is free on a machine, so that no rule judges it.
        better: "less" or "more", or None where neither is.
        column: the header of its column; "" for its name.
        counts: what is counted, in the plural; "" for what the unit says.
        per_image: of a whole model, pictures and tables of cases give it for one image: a time as images a second,
            operations as multiply-adds.
        audit: quantities of one audit count the same thing independently, and must agree.
        depends: entries of the environment on which a number that is no time depends.
        answers: the question of the page's first part that it answers: which attention is "fastest" (a time in
            seconds), from which length on it is "overtaking" another, or its "accuracy" (an error).
    """

    name: str
    unit: str
    kind: Kind
    better: Better | None = None
    _: KW_ONLY
    column: str = ""
    counts: str = ""
    per_image: bool = False
    audit: str = ""
    depends: tuple[str, ...] = ()
    answers: Answer = ""

    def __post_init__(self) -> None:
        """Refuse what nothing could read."""
        for field, choices in _CHOICES.items():
            if (value := getattr(self, field)) not in choices:
                raise PluginError(f"Quantity '{self.name}': {field} {value!r} is none of"
                                  f" {', '.join(map(str, choices))}")
        if self.kind == "time" and (self.unit not in TIMES or self.better != _better(self.unit)):
            raise PluginError(f"Quantity '{self.name}': a time is in s, less being better, or in image/s or sample/s,"
                              " more being better")

    @property
    def is_duration(self) -> bool:
        """True where it is a time of something, in seconds."""
        return self.kind == "time" and self.unit == "s"

    @property
    def header(self) -> str:
        """Name its column."""
        return self.column or self.name.replace("_", " ")


@dataclass(frozen=True)
class Section:
    """A plugin's part of the page: its title, "" for its name, and its place, the smallest first."""

    title: str = ""
    place: int = _LAST


# What verbs of the command line record is of no plugin: their sections, and what a plain number of theirs is.
_VERBS: dict[str, tuple[Section, Kind]] = {
    "train": (Section("Training"), "seeded"), "eval": (Section("Evaluation"), "seeded"),
    "doctor": (Section(), "derived"),
}


def of(measure: str, quantity: str, unit: str) -> Quantity:
    """Look up what a record's number is, as its plugin declares it, or else by its unit."""
    module = _module(measure)
    declared = {q.name: q for q in module.QUANTITIES} if module else {}
    if quantity in declared and declared[quantity].unit == unit:
        return declared[quantity]
    plain: Kind = _VERBS[measure][1] if measure in _VERBS else "derived"
    return _by_unit(quantity, unit, "seeded" if getattr(module, "DETERMINISTIC", False) else plain)


def is_known(measure: str, quantity: str) -> bool:
    """True where somebody here says what that number is."""
    return measure in _VERBS or any(q.name == quantity for q in listed(measure))


def listed(measure: str) -> tuple[Quantity, ...]:
    """The quantities of an installed measure or study, its headline first; none where it is not installed."""
    module = _module(measure)
    return tuple(module.QUANTITIES) if module else ()


def section(measure: str) -> Section:
    """Where a measure or study stands on the page, and under which title."""
    declared = _VERBS[measure][0] if measure in _VERBS else getattr(_module(measure), "SECTION", Section())
    return declared if isinstance(declared, Section) else Section()


def views(measure: str) -> tuple[View, ...]:
    """How the records of a measure or study are shown: as its plugin lists, measures at least as cases."""
    if measure in verbs.VIEWS:
        return tuple(verbs.VIEWS[measure])
    listed = tuple(getattr(_module(measure), "VIEWS", ()))
    if listed and (measure not in plugins.names("measures") or any(isinstance(view, Cases) for view in listed)):
        return listed
    return Cases(name="cases", title=f"{measure}."), Curves(name="curves", title=measure), *listed


def about(measure: str) -> str:
    """A measure or study in one line; "" for one that is not installed."""
    kind = next((kind for kind in ("measures", "studies") if measure in plugins.names(kind)), "")
    return plugins.summary(kind, measure) if kind else verbs.ABOUT.get(measure, "")


def load(kind: str, name: str, required: Iterable[str]) -> ModuleType:
    """The plugin, whose QUANTITIES are what they should be.

    One that has QUANTITY, UNIT and DETERMINISTIC instead, as plugins had until version 0.1, is still understood.

    Raises:
        UsageError: no plugin of that name. PluginError: it breaks the contract.
    """
    module = plugins.load(kind, name)
    if not hasattr(module, "QUANTITIES") and hasattr(module, "QUANTITY") and hasattr(module, "UNIT"):
        vars(module)["QUANTITIES"] = (_older(module),)
    module = plugins.load(kind, name, ("QUANTITIES", *required))
    quantities = module.QUANTITIES
    if not isinstance(quantities, tuple) or not quantities or not all(isinstance(q, Quantity) for q in quantities):
        raise PluginError(f"{name}: QUANTITIES must be a tuple of softbench.contracts.quantities.Quantity, its headline"
                          " first.")
    names = [q.name for q in quantities]
    if twice := next((one for one in names if names.count(one) > 1), ""):
        raise PluginError(f"{name}: QUANTITIES holds '{twice}' twice.")
    return module


def _older(module: ModuleType) -> Quantity:
    plain: Kind = "seeded" if getattr(module, "DETERMINISTIC", False) else "derived"
    quantity = _by_unit(module.QUANTITY, module.UNIT, plain)
    word = _LOWER.get(getattr(module, "BETTER", ""))
    better: Better | None = "less" if word == "less" else "more" if word == "more" else quantity.better
    return quantity if quantity.kind == "time" else Quantity(quantity.name, quantity.unit, quantity.kind, better)


def _better(time: str) -> Better:
    return "less" if time == "s" else "more"


def _by_unit(name: str, unit: str, plain: Kind) -> Quantity:
    if unit in TIMES:
        return Quantity(name, unit, "time", _better(unit))
    if unit in ("B", "flop"):
        return Quantity(name, unit, "exact", "less")
    return Quantity(name, unit, plain) if unit == "1" else Quantity(name, unit, "derived", "more")


def _module(measure: str) -> ModuleType | None:
    """The plugin that gave these records; None where it is not installed, or cannot be used here."""
    for kind in ("measures", "studies"):
        if measure in plugins.names(kind):
            try:
                return _loaded(kind, measure, plugins.where(kind, measure))
            except (PluginError, UsageError):
                return None
    return None


@functools.cache
def _loaded(kind: str, name: str, file: Path) -> ModuleType | None:
    try:
        return load(kind, name, ())
    except (PluginError, UsageError):  # whose records can be read all the same
        return None
