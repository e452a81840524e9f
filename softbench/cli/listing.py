"""`softbench list`, `info` and `env`: what there is to measure, one attention whole, and what this machine is."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from softbench import options as opts
from softbench import plugins
from softbench.case import ModelSpec
from softbench.cli import printing
from softbench.errors import PluginError, Unsupported, UsageError, unknown

if TYPE_CHECKING:
    from softbench.bench.sweep import Job

_HEADER = ("name", "family", "claims", "approximates", "linear in v", "implementations", "summary")
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
@click.option("--format", "form", type=click.Choice(["table", "md"]), default="table", show_default=True)
def list_command(family: str | None, linear: bool | None, linear_in_v: bool | None, form: str) -> None:
    """List attentions, measures, studies and inputs; with a filter, the attentions it leaves."""
    facts = {name: _facts(name) for name in plugins.names("attention")}
    chosen = [name for name, found in facts.items()
              if (linear is None or (found.get("COMPLEXITY") == "N") is linear)
              and (linear_in_v is None or found.get("LINEAR_IN_V") is linear_in_v)]
    if family is not None:
        families = sorted({str(found["FAMILY"]) for found in facts.values() if "FAMILY" in found})
        if family not in families:
            raise unknown("family", family, families)
        chosen = [name for name in chosen if facts[name].get("FAMILY") == family]
    attentions = printing.listing("Attentions", _HEADER, [_attention(name, facts[name]) for name in chosen])
    if (family, linear, linear_in_v) != (None, None, None):
        if not chosen:
            raise UsageError("No attention is left by these filters.")
        printing.print_tables([attentions], form)
        return
    measures = [(n, plugins.summary("measures", n)) for n in plugins.names("measures")]
    studies = [(n.replace("_", "-"), plugins.summary("studies", n)) for n in plugins.names("studies")]
    printing.print_tables([
        attentions,
        printing.listing("Measures", ("name", "summary"), measures),
        *([printing.listing("Studies", ("name", "summary"), studies)] if studies else []),
        printing.listing("Inputs", ("name", "summary"), _INPUTS),
    ], form)


def _facts(name: str) -> dict[str, object]:
    try:
        return plugins.facts("attention", name)
    except PluginError:
        return {}


def _attention(name: str, facts: dict[str, object]) -> tuple[str, ...]:
    impls = facts.get("IMPLS", ())
    return (name, str(facts.get("FAMILY", "-")), f"O({facts['COMPLEXITY']})" if "COMPLEXITY" in facts else "-",
            str(facts.get("APPROXIMATES") or "-"), _yes_or_no(facts.get("LINEAR_IN_V")),
            ", ".join(impls) if isinstance(impls, tuple) else "-", plugins.summary("attention", name))


def _yes_or_no(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else "-"


@click.command("info")
@click.argument("name")
@click.option("--format", "form", type=click.Choice(["table", "md"]), default="table", show_default=True)
def info_command(name: str, form: str) -> None:
    """Print an attention's formula, complexity, source and options. NAME is one of `softbench list`, or a file."""
    facts = plugins.facts("attention", name)

    from softbench.case import AttentionSpec
    from softbench.contracts import attention

    module = attention.load(AttentionSpec(name)).module
    printing.echo(inspect.cleandoc(module.__doc__ or f"{name}: its file has no docstring."))
    printing.echo()
    rows = list(zip(_HEADER[1:-1], _attention(name, facts)[1:-1], strict=True))
    rows += [("keys are the queries", _yes_or_no(facts["SHARES_QK"])),
             ("dim of v", "that of q" if facts.get("SAME_DIM") else "any"),
             ("file", str(plugins.where("attention", name)))]
    written = [(key, kind, str(default), text) for key, kind, default, text in opts.describe(module.Options)]
    printing.print_tables([
        printing.listing("Facts", ("fact", "value"), rows),
        *([printing.listing("Options", ("name", "type", "default", "meaning"), written)] if written else []),
    ], form)


@click.command("env")
@click.option("--format", "form", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
def env_command(form: str) -> None:
    """Show the environment that records made here would carry."""
    from softbench.bench import session
    from softbench.machine import environment
    from softbench.processes import setup

    config = session.default()
    state = setup.apply(config.process)
    found = environment.take(state, session.device(config.sweep.device))
    if form == "jsonl":
        printing.echo(json.dumps(found))
        return
    width = max(map(len, found))
    for key, value in found.items():
        if key != "command":
            printing.echo(f"{key:<{width}}  {'-' if value is None else value}")


def _expected(job: Job) -> list[str]:
    from softbench.reports import format as text

    try:
        cost = job.subject.expected(job.case)
    except Unsupported:
        return [text.MISSING] * 2
    return [text.quantity(cost.flops, "flop"), text.quantity(cost.elements * 4, "B")]


def print_plan(jobs: Sequence[Job], form: str) -> None:
    """The cases of a sweep with what they should cost, without running any."""
    from softbench.bench.sweep import resolved_impl
    from softbench.reports import format as text

    rows = []
    for job in jobs:
        shape, case = job.case.shape, job.case
        grid = f"{shape.rows}x{shape.cols}"
        place = [text.count(shape.batch), grid, case.spec.part] if isinstance(case.spec, ModelSpec) else [
            text.count(shape.tokens), grid]
        rows.append([*place, case.spec.label, resolved_impl(job), case.mode, case.dtype, *_expected(job)])
    models = isinstance(jobs[0].case.spec, ModelSpec)
    header = [*(["batch", "image", "part", "model"] if models else ["tokens", "grid", "attention"]), "impl", "mode",
              "dtype", "FLOPs, forward", "memory, about"]
    how = "counted on shapes alone" if models else "by formula"
    title = f"{len(jobs)} cases, not run; the costs are those of one forward call {how}, memory as float32."
    printing.print_tables([printing.listing(title, header, rows)], form)
