"""Presenting: records as tables on stdout or as pictures, those of a study in the views that it lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softbench import plugins
from softbench.cli import _printing
from softbench.contracts import measure as measuring
from softbench.contracts import study as studies
from softbench.errors import SoftbenchError, UsageError, unknown
from softbench.records import Record, to_frame
from softbench.records.views import Rows, View
from softbench.training import views as training

_ABOUT = {training.TRAIN: "each epoch of each training.", training.EVAL: "accuracy of trained weights."}
# Of the option --view.
VIEW: dict[str, Any] = {"metavar": "NAME[,NAME]", "help": "Only these tables and pictures of a study. [all]"}


@dataclass(frozen=True)
class Chosen:
    """The views to show by study; `named` where the user asked for them rather than taking all."""

    views: dict[str, list[View]] = field(default_factory=dict)
    named: bool = False

    def tables(self, study: str) -> list[Rows]:
        return [view for view in self.views[study] if isinstance(view, Rows)]

    def pictures(self, study: str) -> list[View]:
        return [view for view in self.views[study] if not isinstance(view, Rows)]


def choose(measures: Iterable[str], wanted: str | None, *, plot: bool) -> Chosen:
    """The views of those of the measures that are studies, or those that `--view` names, of measures too.

    Args:
        plot: whether pictures are drawn; without them, naming nothing but pictures is a mistake.
    Raises:
        UsageError: no view of that name, or none that would be shown.
    """
    here = list(dict.fromkeys(measures))
    found = {name: views for name in here if (views := _views(name)) is not None}
    if wanted is None:
        return Chosen(found)
    for name in here:  # what a measure draws only when it is asked for
        if name in plugins.names("measures") and (pictures := getattr(measuring.load(name), "VIEWS", ())):
            found[name] = list(pictures)
    there = {view.name for views in found.values() for view in views}
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name not in there:
            raise unknown("view", name, there)
    kept = {study: [view for view in views if view.name in names] for study, views in found.items()}
    if not plot and not any(isinstance(view, Rows) for views in kept.values() for view in views):
        raise UsageError(f"--view {wanted} is a picture, not a table: draw it with --plot, or with `softbench plot`.")
    return Chosen(kept, named=True)


def everything(measures: Iterable[str]) -> tuple[dict[str, list[View]], dict[str, str]]:
    """All views of these measures and studies, and what each is in one line, as far as they are installed here."""
    views, about = {}, dict(_ABOUT)
    for name in dict.fromkeys(measures):
        kind = "studies" if is_study(name) else "measures"
        if (found := _views(name)) is not None:
            views[name] = found
        elif name in plugins.names("measures"):
            views[name] = list(getattr(measuring.load(name), "VIEWS", ()))
        if name in plugins.names(kind):
            about[name] = plugins.summary(kind, name)
    return views, about


def _views(measure: str) -> list[View] | None:
    """The views that records of this name come with, those of training or of a study; None where they have none."""
    if measure in training.VIEWS:
        return list(training.VIEWS[measure])
    return list(studies.load(measure).VIEWS) if is_study(measure) else None


def is_study(measure: str) -> bool:
    """Whether records of this name come from a study that is installed here."""
    return measure in plugins.names("studies") and measure not in plugins.names("measures")


def print_records(records: Sequence[Record], form: str, baseline: str, chosen: Chosen | None = None) -> None:
    """The records on stdout: as tables, markdown tables, CSV in SI units, or JSON Lines."""
    if form == "jsonl":
        for record in records:
            _printing.echo(record.to_json())
        return
    from softbench.reports import tables
    from softbench.reports import views as reports

    frame = to_frame(records)
    if form == "csv":
        _printing.echo(tables.to_csv(frame), nl=False)
        return
    chosen = chosen or Chosen()
    found = []
    for measure in dict.fromkeys(frame["measure"]):
        part = frame[frame["measure"] == measure]
        if measure in chosen.views:
            found += reports.tables(chosen.tables(measure), part)
        elif not chosen.named:
            found += tables.tables(part, baseline)
    _printing.print_tables(found, form)


def plot_or_say_why(records: Sequence[Record], path: Path, baseline: str, chosen: Chosen | None = None) -> bool:
    """Draw what has just been measured; where it cannot be, say so and return False: the records are kept anyway."""
    try:
        plot_records(records, path, baseline, chosen)
    except SoftbenchError as error:
        _printing.say(f"Warning: no plot. {error}")
        return False
    return True


def targets(path: Path, study: str, chosen: Chosen | None) -> list[Path]:
    """The files of the pictures of these records, in the order of the study's views."""
    if chosen is None or study not in chosen.views:
        return [path]
    pictures = chosen.pictures(study)
    if chosen.named and len(pictures) == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{view.name}") for view in pictures]


def plot_records(records: Sequence[Record], path: Path, baseline: str, chosen: Chosen | None = None) -> None:
    """Draw the records: one picture, or one for each of a study's views, `out.png` becoming `out-<view>.png`.

    A single view that was named gets the very name given.

    Raises:
        UsageError: the records hold several measures, or nothing that can be drawn.
    """
    from softbench.reports import plots
    from softbench.reports import views as reports

    frame, measures = to_frame(records), {record.measure for record in records}
    study = measures.pop() if len(measures) == 1 else ""
    if chosen is None or study not in chosen.views:
        plots.plot(frame, path, baseline=baseline)
        _printing.say(f"Plot: {path}")
        return
    pictures = chosen.pictures(study)
    drawn = 0
    for view, target in zip(pictures, targets(path, study, chosen), strict=True):
        if reports.plot(view, frame, target):
            drawn += 1
            _printing.say(f"Plot: {target}")
        else:
            _printing.say(f"No picture '{view.name}': there is nothing to draw in it.")
    if pictures and not drawn:
        raise UsageError(f"No record of {study} has a value to plot.")
