"""`softbench export`: result files in the formats that CI tools read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from softbench import records
from softbench.cli import printing
from softbench.errors import unknown
from softbench.files import keep_apart

_FORMATS = ("pytest-benchmark", "github-action", "junit")


@click.command("export")
@click.argument("files", nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(_FORMATS), required=True, help="Whose format to write.")
@click.option("--measure", metavar="NAME", help="Only the records of this measure.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write. [stdout]")
def export_command(files: Sequence[str], form: str, measure: str | None, out: Path | None) -> None:
    """Write result files for CI tools: the latest record of each case.

    pytest-benchmark: what `pytest --benchmark-json` writes (times alone). github-action: for github-action-benchmark,
    tool customSmallerIsBetter (times, bytes, FLOPs). junit: one test a record, a failure where a case failed.
    """
    from softbench.reports import export

    found, paths = [], records.expand(files)
    if out is not None:
        keep_apart({"--out": [out]}, paths)
    for path in paths:
        whole, problems = records.read(path)
        found += whole
        for problem in problems:
            printing.say(f"Warning: {problem}")
    found = [record for record in records.latest(found) if record.environment]
    measures = {record.measure for record in found}
    if measure is not None and measure not in measures:
        raise unknown("measure in these files", measure, measures)
    text = export.FORMATS[form]([record for record in found if measure in (None, record.measure)])
    if out is None:
        click.echo(text, nl=False)
    else:
        records.write_whole(out, text)
        printing.say(f"Written: {out}")
