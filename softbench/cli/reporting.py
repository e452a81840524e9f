"""`softbench report`: result files as one HTML page that can be sent around and opened from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from softbench import records
from softbench.cli import presenting, printing
from softbench.errors import UsageError, unknown
from softbench.files import keep_apart
from softbench.records import Record

SUFFIXES = (".html", ".htm")
_NONE = "none"


@click.command("report")
@click.argument("files", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The .html file to write.")
@click.option("--baseline", default="",
              help="What ratios refer to, on each machine its own; none for none. [softmax; of models, the first]")
def report_command(files: Sequence[str], out: Path, baseline: str) -> None:
    """Write one HTML page: which attention is fastest, then all tables and pictures, and the records themselves.

    It needs no network and no other file. Records of several machines may be given: each is compared with its own
    baseline.
    """
    paths = records.expand(files)
    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out: '{out}' must end in .html.")
    keep_apart({"--out": [out]}, paths)
    found, problems = [], []
    for path in paths:
        whole, wrong = records.read(path)
        found += whole
        problems += wrong
    for problem in problems:
        printing.say(f"Warning: {problem}")
    from softbench.reports import page

    found = records.latest(found)
    _check_baseline(baseline, found)
    views, about = presenting.everything(record.measure for record in found)
    records.write_whole(out, page.page(found, views, about, baseline=baseline, problems=problems))
    printing.say(f"Report: {out} ({len(found):,} records, {out.stat().st_size / 1e6:.1f} MB)")


def _check_baseline(name: str, found: Sequence[Record]) -> None:
    there = {own for record in found for own in (record.label, record.attention, record.model) if own}
    if name and name != _NONE and name not in there:
        raise unknown("attention or model in these files", name, {*there, _NONE})
