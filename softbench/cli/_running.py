"""What commands that run something share: their flags, what they resume, and how they keep what they find."""

from __future__ import annotations

import glob
import math
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from softbench import options as opts
from softbench import parsing, plugins, records
from softbench.cli import _printing
from softbench.errors import Interrupted, UsageError
from softbench.machine import environment
from softbench.records import Record

if TYPE_CHECKING:
    from softbench.cli._progress import Progress

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
        for key, kind, default, text in opts.describe(cls):
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


def output(name: str, out: Path | None, resume: bool) -> Path:
    """The file that records go to. Raises UsageError where one to resume is not named."""
    if resume and out is None:
        raise UsageError("--resume needs the file to continue: give it with --out FILE.")
    return out or Path("results") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}.jsonl"


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
    """What was typed, so that it can be typed again."""
    return shlex.join(["softbench", *sys.argv[1:]])


def known(out: Path, measure: str, here: Mapping[str, Any], keys: Sequence[str], key: Callable[[Record], str],
          items: str, fits: Callable[[Record], bool] = lambda record: True) -> dict[int, list[Record]]:
    """The records of this measure that `out` already holds for this environment, by the position of their key.

    What failed before, was cut short by a budget, or was measured with other settings (`fits`) or of other code is left
    out, as it runs again. Says on stderr what was found and what does not fit.
    """
    if not out.exists():
        _printing.say(f"Nothing to resume: {out} does not exist yet.")
        return {}
    whole, problems = records.read(out, begun=True)
    for problem in problems:
        _printing.say(f"Warning: {problem}")
    if not whole:
        _printing.say(f"Nothing to resume: {out} holds no whole record yet.")
        return {}
    found = [(record, environment.differences(record.environment, dict(here)) if record.environment else [])
             for record in whole if record.measure == measure]
    if foreign := {difference for _, differences in found for difference in differences}:
        _printing.say(f"Warning: {out} also holds records of another environment ({'; '.join(sorted(foreign))}); "
                     f"these {items} are run again.")
    here_too = [record for record, differences in found if not differences]
    if not all(map(fits, here_too)):
        _printing.say(f"Warning: {out} also holds records made with other settings; these {items} are run again.")
    if any(_of_other_code(record, here) for record in here_too):
        _printing.say(f"Warning: {out} also holds records of plugins whose files have changed since, or of other files "
                     f"of the same name; these {items} are run again.")
    kept: dict[str, list[Record]] = {}
    for record in records.latest(record for record in here_too if fits(record) and not _of_other_code(record, here)):
        kept.setdefault(key(record), []).append(record)
    positions = {i: kept[name] for i, name in enumerate(keys)
                 if name in kept and not any(record.status == "failed" or records.UNFINISHED in record.detail
                                             for record in kept[name])}
    others = {(record.environment.get("commit"), record.environment.get("code")) for group in positions.values()
              for record in group if record.environment} - {(here["commit"], here.get("code"))}
    if others:
        commits = sorted({f"{commit}{' with changes' if code else ''}" for commit, code in others})
        _printing.say("Warning: some of the kept records were made at another commit of softbench "
                     f"({', '.join(commits)}).")
    _printing.say(f"Resuming: {len(positions)} of {len(keys)} {items} are in {out}.")
    return positions


def _of_other_code(record: Record, here: Mapping[str, Any]) -> bool:
    """Whether a plugin that the record is of has changed; any that both know, where it is of a study."""
    if not record.environment:
        return False
    there, now = (str(environment.get("plugins") or "") for environment in (record.environment, here))
    own = plugins.changed(there, now, f"attention:{record.attention}", f"measures:{record.measure}",
                          f"studies:{record.measure}")
    return own or ("task" in record.coords and plugins.changed(there, now))


def keep(steps: Iterable[tuple[int, list[Record]]], out: Path, progress: Progress, items: str,
         kept: list[Record]) -> None:
    """Append what each step gives to `out` as soon as it is there; a step is a number of items and their records.

    Raises:
        ResultsError: `out` cannot be written. Interrupted: Ctrl-C; the message says how to go on.
    """
    records.check_writable(out)  # now, not after an hour of measuring
    target = out.absolute()  # code that runs may change the working directory
    with progress:
        try:
            for count, group in steps:
                records.append(target, group)
                kept += group
                progress.advance(count, group)
        except KeyboardInterrupt:
            again = command() + ("" if "--out" in sys.argv else f" --out {shlex.quote(str(out))}")
            where = f" and kept in {out}" if kept else ""
            raise Interrupted(f"Interrupted: {progress.done} of {progress.total} {items} are done{where}. "
                              f"Continue with: {again.replace(' --resume', '')} --resume") from None


def _metavar(kind: str) -> str:
    return {"int": "N", "float": "X", "bool": "[true|false]", "str": "TEXT"}.get(kind, kind.replace(" ", ""))
