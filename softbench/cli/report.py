"""`softbench report`: result files as one HTML page that can be sent around and opened from disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from softbench import records
from softbench.cli import _printing, _selecting
from softbench.errors import UsageError
from softbench.files import keep_apart

SUFFIXES = (".html", ".htm")


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
    rows, problems = _selecting.read(paths)
    _selecting.check_baseline(rows, baseline)
    from softbench.reports import page

    records.write_whole(out, page.page(rows, baseline=baseline, problems=problems))
    _printing.say(f"Report: {out} ({len(rows):,} records, {out.stat().st_size / 1e6:.1f} MB)")

