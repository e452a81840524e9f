"""The verbs: the files of this folder, every measure and every study; each is loaded only when it is used."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from types import ModuleType

import click

import softbench
from softbench import plugins
from softbench.errors import hint

_FOLDER = Path(__file__).parent


class _Verbs(click.Group):
    """Commands that are imported when they are run or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(dict.fromkeys([*plugins.names("measures"), *_studies(), *_files()]))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if stem := _files().get(name):
            command: click.Command = getattr(_module(stem), f"{stem}_command")
            return command
        if name in plugins.names("measures"):
            from softbench.cli._measures import measure_command

            return measure_command(name)
        if name in _studies():
            from softbench.cli._studies import study_command

            return study_command(_studies()[name])
        return None

    def resolve_command(self, ctx: click.Context,
                        args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            commands = self.list_commands(ctx)
            advice = hint(args[0], commands, f"Commands: {', '.join(commands)}.")
            raise click.UsageError(f"No command '{args[0]}'. {advice}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line a command; measures and studies are described by their files, which are not imported for it."""
        measures = [(n, plugins.summary("measures", n)) for n in plugins.names("measures")]
        studies = [(n, plugins.summary("studies", study)) for n, study in _studies().items()]
        sections = {"Measure": measures, "Study": studies, "Train": [], "Look": []}
        for name, stem in _files().items():
            if command := self.get_command(ctx, name):
                sections[getattr(_module(stem), "SECTION", "Look")].append((name, command.get_short_help_str(90)))
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


@functools.cache
def _files() -> dict[str, str]:
    """Map what the verbs of this folder are called on the command line to their files' names."""
    stems = sorted(path.stem for path in _FOLDER.glob("*.py"))
    return {stem.replace("_", "-"): stem for stem in stems if not stem.startswith("_")}


def _module(stem: str) -> ModuleType:
    return importlib.import_module(f"softbench.cli.{stem}")


def _studies() -> dict[str, str]:
    """Map what studies are called on the command line to their plugins' names."""
    return {name.replace("_", "-"): name for name in plugins.names("studies")}


@click.command(cls=_Verbs, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(softbench.__version__, prog_name="softbench")
def cli() -> None:
    """Measure efficient attention honestly: which one is faster at my length, on my machine?

    \b
    softbench latency --attn soft,performer          latency beside exact softmax
    softbench latency --attn soft:landmarks=64 --tokens 1k..64k --plot out.png
    softbench list                                   attentions, measures, studies, inputs
    softbench info soft                              formula, source and options of one attention

    Exit codes: 0 ok, 1 error, 2 usage, 3 regression, 4 inconclusive, 5 some cases failed, 130 interrupted.
    """
