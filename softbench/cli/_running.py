"""Running: commands that run something share their flags, and how they run, show what came of it, and end."""

from __future__ import annotations

import glob
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softbench import files, options, parsing
from softbench.bench import run as engine
from softbench.bench.run import Run
from softbench.cli import _presenting, _printing
from softbench.cli._progress import Progress
from softbench.errors import UsageError
from softbench.records import Record

if TYPE_CHECKING:
    from softbench.bench.programme import Programme

ERROR, SOME_FAILED = 1, 5
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Number(click.FloatRange):
    """A finite number within bounds. `nan` is within any bounds, as nothing compares with it, and decides nothing."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Seconds(click.ParamType):
    """A time, as `parsing.seconds` reads it, that a case may take."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return parsing.seconds(str(value), param.opts[0] if param else self.name, low=0.1, high=1e6)


def run_options(items: str) -> list[click.Option]:
    """Flags of the run itself, which bench.toml does not hold. `items` is what it runs: cases, tasks."""
    return [
        click.Option(["--set", "assignments"], multiple=True, metavar="SECTION.KEY=VALUE",
                     help="Set any key of bench.toml, as in attention.soft.landmarks=64. Repeatable."),
        click.Option(["--config"], type=click.Path(path_type=Path), help="Configuration file. [./bench.toml]"),
        click.Option(["--out"], type=click.Path(path_type=Path),
                     help="JSON Lines file to append records to. [a new file in results/]"),
        click.Option(["--plot"], type=click.Path(path_type=Path), help="Also draw the numbers: a .png or .svg file."),
        click.Option(["--format", "form"], type=click.Choice(_printing.FORMATS), default="table",
                     help="What to print: tables to read, or the records as CSV or JSON Lines. [table]"),
        click.Option(["--quick"], is_flag=True, help="A smaller programme, for a first look."),
        click.Option(["--resume"], is_flag=True, help=f"Skip the {items} that --out already holds for this machine."),
        click.Option(["--dry-run"], is_flag=True, help=f"List the {items}; run nothing."),
    ]


def setting_options(sections: Mapping[str, type], run: Sequence[click.Option],
                    what: str) -> tuple[list[click.Option], dict[str, str]]:
    """A flag for each key of these sections of bench.toml, and the section that each key belongs to.

    Raises:
        UsageError: a key of the plugin is a flag already; `what` says whose.
    """
    owners: dict[str, str] = {}
    flags: list[click.Option] = []
    for section, cls in sections.items():
        for key, kind, default, text in options.describe(cls):
            if key in owners or key in {option.name for option in run}:
                raise UsageError(f"{what}: its setting '{key}' is already a flag. Rename it.")
            owners[key] = section
            shown = f" [{default}]" if default not in ("", None) else ""
            # --tf32 is --tf32 true
            alone: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if kind == "bool" else {}
            flags.append(click.Option([f"--{key.replace('_', '-')}"], metavar=_metavar(kind), help=f"{text}.{shown}",
                                      **alone))
    return flags, owners


def take_settings(values: dict[str, Any], owners: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Section -> key -> value of the flags that were given; takes them out of `values`."""
    flags: dict[str, dict[str, Any]] = {}
    for key, section in owners.items():
        if (value := values.pop(key)) is not None:
            flags.setdefault(section, {})[key] = value
    return flags


def output(name: str, out: Path | None, resume: bool, plot: Path | None, chosen: _presenting.Chosen | None,
           values: Any) -> Path:
    """The file that records go to.

    Raises:
        UsageError: one to resume is not named, or an output would be written over another or over what `values` of
            flags name.
    """
    if resume and out is None:
        raise UsageError("--resume needs the file to continue: give it with --out FILE.")
    stem = name.replace("_", "-")
    target = out or Path("results") / f"{stem}-{datetime.now():%Y%m%d-%H%M%S}.jsonl"
    if plot is not None:
        from softbench.reports import figures

        figures.check_path(plot)
        files.keep_apart({"--out": [target], "--plot": _presenting.targets(plot, name, chosen)}, named_files(values))
    return target


def named_files(values: Any) -> Iterator[str]:
    """The files that values of flags may name, as in image:PATH or a.jsonl,b.jsonl; globs are expanded."""
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, list | tuple):
        for value in values:
            yield from named_files(value)
    elif isinstance(values, str | Path):
        for piece in str(values).split(","):
            for text in (piece, piece.partition(":")[2], piece.partition("=")[2]):
                yield from glob.glob(text)


def command() -> str:
    """Give back what was typed, so that it can be typed again."""
    return shlex.join(["softbench", *sys.argv[1:]])


def carry_out(programme: Programme, weights: Callable[[Any], Sequence[float]],
              outcomes: Callable[[Sequence[Record]], list[str]], *, out: Path, plot: Path | None, form: str,
              resume: bool, force: bool = False, baseline: str = "", chosen: _presenting.Chosen | None = None) -> int:
    """Run a programme under a progress bar with these weights and outcomes, show what came of it; the exit code."""
    def finish(run: Run) -> int:
        drawn = False
        try:
            _presenting.print_records(run.records, form, baseline, chosen)
        finally:  # also where nobody reads the tables any more
            if any("work" in r.detail and "limit" not in r.detail and "task" not in r.coords for r in run.new):
                _printing.say("No floors beside these times: `softbench roofline` measures once what this machine can"
                              " do.")
            drawn = plot is None or _presenting.plot_or_say_why(run.records, plot, baseline, chosen)
            if run.new or resume:
                _printing.say(f"Records: {out} ({len(run.new)} new)")
        return SOME_FAILED if run.failed else 0 if drawn else ERROR

    more = "" if any(word.partition("=")[0] == "--out" for word in sys.argv) else f" --out {shlex.quote(str(out))}"
    again = f"Continue with: {command().replace(' --resume', '')}{more} --resume"
    progress = Progress(weights, outcomes, finish)
    return finish(engine.run(programme, out, resume=resume, force=force, watch=progress, again=again))


def _metavar(kind: str) -> str:
    return {"int": "N", "float": "X", "bool": "[true|false]", "str": "TEXT"}.get(kind, kind.replace(" ", ""))
