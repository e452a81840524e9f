"""Presenting: records as tables on stdout or as pictures, in the views that their measures and studies list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softbench.cli import _printing
from softbench.contracts import quantities
from softbench.errors import SoftbenchError, UsageError, unknown
from softbench.records import Record, to_frame
from softbench.records.views import Curves, View

# Of the option --view.
VIEW: dict[str, Any] = {"metavar": "NAME[,NAME]", "help": "Only these tables and pictures. [all; a measure's curves]"}


@dataclass(frozen=True)
class Chosen:
    """The views to show by measure or study; `named` where the user asked for them rather than taking all."""

    views: dict[str, list[View]]
    named: bool = False

    def pictures(self, measure: str) -> list[View]:
        """Those that are drawn: the named ones, or what stands for all."""
        from softbench.reports import figures

        views = self.views[measure]
        return [view for view in views if not view.is_table] if self.named else figures.main(views)


def choose(measures: Iterable[str], named: str | None = None, *, plot: bool = False) -> Chosen:
    """The views of these measures and studies, or those that `--view` names.

    Args:
        plot: whether pictures are drawn; without them, naming nothing but pictures is a mistake.
    Raises:
        UsageError: no view of that name, or none that would be shown.
    """
    listed = {name: list(quantities.views(name)) for name in dict.fromkeys(measures)}
    if named is None:
        return Chosen(listed)
    there = {view.name for views in listed.values() for view in views}
    names = [name.strip() for name in named.split(",")]
    for name in names:
        if name not in there:
            raise unknown("view", name, there)
    kept = {measure: [view for view in views if view.name in names] for measure, views in listed.items()}
    if not plot and not any(view.is_table for views in kept.values() for view in views):
        raise UsageError(f"--view {named} is a picture, not a table: draw it with --plot, or with `softbench plot`.")
    return Chosen(kept, named=True)


def print_records(records: Sequence[Record], form: str, baseline: str, chosen: Chosen | None = None) -> None:
    """The records on stdout: as tables, markdown tables, CSV in SI units, or JSON Lines."""
    if form == "jsonl":
        for record in records:
            _printing.echo(record.to_json())
        return
    from softbench.reports import tables

    frame = to_frame(records)
    if form == "csv":
        _printing.echo(tables.to_csv(frame), nl=False)
        return
    chosen = chosen or choose(record.measure for record in records)
    _printing.print_tables(tables.tables(frame, baseline, chosen.views), form)


def plot_or_say_why(records: Sequence[Record], path: Path, baseline: str, chosen: Chosen | None = None) -> bool:
    """Draw what has just been measured; where it cannot be, say so and return False: the records are kept anyway."""
    try:
        plot_records(records, path, baseline, chosen)
    except SoftbenchError as error:
        _printing.say(f"Warning: no plot. {error}")
        return False
    return True


def targets(path: Path, measure: str, chosen: Chosen | None) -> list[Path]:
    """The files of the pictures of these records, in the order of the views: `path` itself where there is but one that
    was named, or that is of cases, and otherwise `out.png` becoming `out-<view>.png`."""
    chosen = chosen or choose([measure])
    pictures = chosen.pictures(measure)
    if len(pictures) == 1 and (chosen.named or isinstance(pictures[0], Curves)):
        return [path]
    return [path.with_stem(f"{path.stem}-{view.name}") for view in pictures]


def plot_records(records: Sequence[Record], path: Path, baseline: str, chosen: Chosen | None = None) -> None:
    """Draw the records: a file for each of their pictures, called as `targets` says.

    Raises:
        UsageError: the records hold several measures, or nothing that can be drawn.
    """
    from softbench.reports import figures

    measure = figures.one(record.measure for record in records)
    chosen, frame, drawn = chosen or choose([measure]), to_frame(records), 0
    pictures = chosen.pictures(measure)
    if not pictures:
        which = "with that name" if chosen.named else "to draw"
        raise UsageError(f"{measure} has no picture {which}, only tables: print them with `softbench show`.")
    for view, target in zip(pictures, targets(path, measure, chosen), strict=True):
        if figures.plot(frame, target, baseline=baseline, view=view):
            drawn += 1
            _printing.say(f"Plot: {target}")
        elif not isinstance(view, Curves):
            _printing.say(f"No picture '{view.name}': there is nothing to draw in it.")
    if not drawn:
        raise UsageError(f"No record of {measure} has a value to plot.")
