"""`softbench list`: the attentions, measures, studies, tasks and inputs that there are."""

from __future__ import annotations

import click

from softbench import config, plugins
from softbench.cli import _attentions, _printing
from softbench.errors import UsageError, unknown

_INPUTS = [
    ("normal", "independent standard normal entries"),
    ("structured[:ALPHA]", "regions of the token grid that share a centre of that strength (0.75)"),
    ("clustered[:GROUPS]", "the same, with that many groups scattered over the grid (16)"),
    ("lowrank[:RANK]", "q and k in a subspace of that dimension (8)"),
    ("peaky[:TEMPERATURE]", "normal, with the logits divided by the temperature (0.25)"),
    ("outliers[:FACTOR]", "normal, with every hundredth token that many times as long (10)"),
    ("constant", "all tokens of a head alike, as in a blank image"),
    ("image", "tokens of the two photographs that scikit-learn ships, through a patch embedding"),
    ("image:PATH", "tokens of your photograph, or of a folder of them"),
]


@click.command("list")
@click.option("--family", help="Only attentions of this family, such as landmark or 'feature map'.")
@click.option("--linear/--not-linear", default=None, help="Only attentions that claim O(N), or only the others.")
@click.option("--linear-in-v/--not-linear-in-v", default=None,
              help="Only attentions whose output is S(q, k) v, or only the others.")
@click.option("--causal/--not-causal", default=None,
              help="Only attentions with a causal form, or only those without.")
@click.option("--defaults", is_flag=True, help="Print every setting with its default instead, as a bench.toml.")
@click.option("--format", "form", type=click.Choice(["table", "md"]), default="table", show_default=True)
def list_command(family: str | None, linear: bool | None, linear_in_v: bool | None, causal: bool | None, defaults: bool,
                 form: str) -> None:
    """List attentions, measures, studies, tasks and inputs; with a filter, the attentions it leaves."""
    filtered = (family, linear, linear_in_v, causal) != (None, None, None, None)
    if defaults:
        if filtered or form != "table":
            raise UsageError("--defaults prints all settings in the form of bench.toml: leave the other flags out.")
        _printing.echo(config.defaults(), nl=False)
        return
    facts = {name: _attentions.facts(name) for name in plugins.names("attention")}
    chosen = [name for name, constants in facts.items()
              if (linear is None or (constants.get("COMPLEXITY") == "N") is linear)
              and (linear_in_v is None or constants.get("LINEAR_IN_V") is linear_in_v)
              and (causal is None or (constants.get("CAUSAL", "never") != "never") is causal)]
    if family is not None:
        families = sorted({str(constants["FAMILY"]) for constants in facts.values() if "FAMILY" in constants})
        if family not in families:
            raise unknown("family", family, families)
        chosen = [name for name in chosen if facts[name].get("FAMILY") == family]
    rows = [_attentions.row(name, facts[name]) for name in chosen]
    attentions = _printing.listing("Attentions", _attentions.HEADER, rows)
    if filtered:
        if not chosen:
            raise UsageError("No attention is left by these filters.")
        _printing.print_tables([attentions], form)
        return
    measures = [(n, plugins.summary("measures", n)) for n in plugins.names("measures")]
    studies = [(n.replace("_", "-"), plugins.summary("studies", n)) for n in plugins.names("studies")]
    tasks = [_attentions.task_row(name) for name in plugins.names("tasks")]
    _printing.print_tables([
        attentions,
        _printing.listing("Measures", ("name", "summary"), measures),
        *([_printing.listing("Studies", ("name", "summary"), studies)] if studies else []),
        _printing.listing("Tasks", _attentions.TASK_HEADER, tasks),
        _printing.listing("Inputs", ("name", "summary"), _INPUTS),
    ], form)
