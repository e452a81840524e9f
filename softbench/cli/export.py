"""`softbench export`: result files in the formats that CI tools read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from softbench import records
from softbench.cli import _printing, _selecting
from softbench.files import keep_apart

_FORMATS = ("pytest-benchmark", "github-action", "junit")


@click.command("export")
@click.argument("files", nargs=-1, required=True)
@click.option("--format", "form", type=click.Choice(_FORMATS), required=True, help="Whose format to write.")
@click.option("--measure", metavar="NAMES", help="Only the records of these measures, comma-separated.")
@click.option("--out", type=click.Path(path_type=Path), help="The file to write. [stdout]")
def export_command(files: Sequence[str], form: str, measure: str | None, out: Path | None) -> None:
    """Write result files for CI tools: the latest record of each case.

    pytest-benchmark: what `pytest --benchmark-json` writes (times alone). github-action: for github-action-benchmark,
    tool customSmallerIsBetter (times, bytes, FLOPs). junit: one test a record, a failure where a case failed.
    """
    from softbench.reports import export

    paths = records.expand(files)
    if out is not None:
        keep_apart({"--out": [out]}, paths)
    measured = [record for record in _selecting.read(paths)[0] if record.environment]
    text = export.FORMATS[form](_selecting.of_measures(measured, measure))
    if out is None:
        _printing.echo(text, nl=False)
    else:
        records.write_whole(out, text)
        _printing.say(f"Written: {out}")
