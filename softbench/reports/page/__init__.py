"""The page: records become one HTML file that answers first, shows all, and carries the records themselves.

It loads nothing: style, script, pictures and records are inside, and its policy lets nothing else in. Whatever comes
from a record is text to it. The same records give the same bytes.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from typing import Any

import softbench
from softbench.contracts import quantities
from softbench.errors import ResultsError
from softbench.records import Record
from softbench.records.views import View
from softbench.reports import format
from softbench.reports.page import _answers, _machines, _sections
from softbench.reports.page._machines import Machine
from softbench.reports.tables import Column, Table

_NOT_SHOWN = ("machine", "command")  # of an environment: its name heads the column, its commands have a table


def page(records: Sequence[Record], views: Mapping[str, Sequence[View]] | None = None, *, baseline: str = "",
         problems: Sequence[str] = ()) -> str:
    """The page as text.

    Args:
        records: the latest of each case, of any number of machines.
        views: of measures and studies that are shown in others than those they list.
        baseline: what ratios refer to; empty: softmax, for models the first.
        problems: sentences on lines of the files that were left out.
    Raises:
        ResultsError: no record has a value.
    """
    if not any(record.value is not None for record in records):
        statuses = dict.fromkeys(record.status for record in records)
        counted = ", ".join(f"{sum(r.status == s for r in records)} {s}" for s in statuses)
        raise ResultsError(f"None of these records has a value ({counted or 'there are none'}): there is nothing to"
                           " report. `softbench show` prints why.")
    machines = _machines.machines(records)
    style, script = _file("style.css"), _file("page.js")
    answers = [answer for machine in machines for answer in _answers.answers(machine, baseline)]
    errors = _answers.errors([record for machine in machines for record in machine.records])
    sections = _sections.sections(machines, views or {}, baseline)
    grids = [grid for section in sections for grid in (*section.merged, *(g for p in section.parts for g in p.grids))]
    overtaking = [(part.machine, part.grids[0]) for section in sections if _is_answer(section)
                  for part in section.parts if part.grids]
    sections = [_without_first(section) if _is_answer(section) else section for section in sections]
    return _template().render(
        style=style, script=script, policy=_policy(style, script), version=softbench.__version__,
        answers=[(answer, _sections.grid(answer.table, answer.facets)) for answer in answers],
        overtaking=overtaking, errors=None if errors is None else _sections.grid(errors, {}), sections=sections,
        choices=_choices(grids),
        machines=[machine.name for machine in machines if machine.environment] or [_machines.PUBLISHED],
        environment=_sections.grid(_environment(machines), {}) if any(m.environment for m in machines) else None,
        commands=_sections.grid(_commands(machines), {}), records=_packed(records), count=len(records),
        failures=sum(record.value is None for record in records), problems=[format.text(p) for p in problems],
        dates=_dates(records), margin=format.share(_answers.TERMS.threshold))


def _is_answer(section: _sections.Section) -> bool:
    """True where its first table, on the length from which on one overtakes another, belongs to the answer."""
    return any(known.answers == "overtaking" for known in quantities.listed(section.measure))


def _without_first(section: _sections.Section) -> _sections.Section:
    """The section without the table that stands in the answer."""
    return replace(section, parts=[replace(part, grids=part.grids[1:]) for part in section.parts])


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("softbench.reports.page"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)
    environment.filters["count"] = format.count
    return environment.get_template("page.html")


def _file(name: str) -> str:
    return resources.files("softbench.reports.page").joinpath("templates", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The rule that the page runs and loads its own style and script, known by their digests, and nothing else."""
    def digest(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (f"default-src 'none'; style-src {digest(style)}; script-src {digest(script)}; base-uri 'none'; "
            "form-action 'none'")


def _packed(records: Sequence[Record]) -> str:
    """All records with their raw samples as JSON Lines, compressed, as the address of a link."""
    lines = "".join(record.to_json() + "\n" for record in records)
    return "data:application/gzip;base64," + base64.b64encode(gzip.compress(lines.encode(), 9, mtime=0)).decode()


def _choices(grids: Sequence[_sections.Grid]) -> dict[str, list[str]]:
    """The values by which rows can be chosen, where there is a choice."""
    choices = {facet: sorted({line.facets[facet] for grid in grids for body in grid.bodies for line in body.lines
                            if facet in line.facets}) for facet in _sections.FACETS}
    return {facet: values for facet, values in choices.items() if len(values) > 1}


def _environment(machines: Sequence[Machine]) -> Table:
    """One row for each entry of the environment, one column for each machine. Of several runs, the last one's."""
    measured = [machine for machine in machines if machine.environment]
    keys = dict.fromkeys(key for machine in measured for key in machine.environment if key not in _NOT_SHOWN)
    rows = [[format.text(key.replace("_", " ")), *(_entry(key, m.environment.get(key)) for m in measured)]
            for key in keys]
    return Table(["The machines, as their last records describe them."],
                 [Column("entry", right=False), *(Column(m.name, right=False) for m in measured)], rows)


def _entry(key: str, value: Any) -> str:
    return format.quantity(value, "B") if key.endswith("memory") and isinstance(value, int) else format.text(value)


def _commands(machines: Sequence[Machine]) -> Table:
    """The commands that made these records, in the order of their times."""
    made: dict[tuple[str, str], list[Record]] = {}
    for machine in machines:
        for record in machine.records:
            if command := record.environment.get("command"):
                made.setdefault((format.text(command), machine.name), []).append(record)
    rows = [[command, name, ", ".join(dict.fromkeys(format.text(r.environment.get("commit")) for r in records)),
             _dates(records), format.count(len(records))]
            for (command, name), records in sorted(made.items(), key=lambda item: min(r.started for r in item[1]))]
    headers = ("command", "machine", "commit", "measured")
    return Table(["The commands that made these records."],
                 [*(Column(header, right=False) for header in headers), Column("records")], rows)


def _dates(records: Sequence[Record]) -> str:
    """The first and the last day of these records."""
    days = sorted({format.text(record.started)[:10] for record in records if record.started})
    return "" if not days else days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
