"""`softbench info`: one attention whole."""

from __future__ import annotations

import inspect

import click

from softbench import options as opts
from softbench import plugins
from softbench.cli import _attentions, _printing


@click.command("info")
@click.argument("name")
@click.option("--format", "form", type=click.Choice(["table", "md"]), default="table", show_default=True)
def info_command(name: str, form: str) -> None:
    """Print an attention's formula, complexity, source and options. NAME is one of `softbench list`, or a file."""
    facts = plugins.facts("attention", name)

    from softbench.case import AttentionSpec
    from softbench.contracts import attention

    module = attention.load(AttentionSpec(name)).module
    _printing.echo(inspect.cleandoc(module.__doc__ or f"{name}: its file has no docstring."))
    _printing.echo()
    rows = list(zip(_attentions.HEADER[1:-1], _attentions.row(name, facts)[1:-1], strict=True))
    rows += [("keys are the queries", _attentions.yes_or_no(facts["SHARES_QK"])),
             ("dim of v", "that of q" if facts.get("SAME_DIM") else "any"),
             ("file", str(plugins.where("attention", name)))]
    written = [(key, kind, str(default), text) for key, kind, default, text in opts.describe(module.Options)]
    _printing.print_tables([
        _printing.listing("Facts", ("fact", "value"), rows),
        *([_printing.listing("Options", ("name", "type", "default", "meaning"), written)] if written else []),
    ], form)
