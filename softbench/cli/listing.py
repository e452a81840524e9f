"""`softbench list` and `softbench env`: what there is to measure, and what this machine is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from softbench import plugins
from softbench.case import ModelSpec
from softbench.cli import printing
from softbench.errors import PluginError, Unsupported

if TYPE_CHECKING:
    from softbench.sweep import Job

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
@click.option("--format", "form", type=click.Choice(["table", "md"]), default="table", show_default=True)
def list_command(form: str) -> None:
    """List attentions, measures, studies and inputs."""
    attentions = [_attention(name) for name in plugins.names("attention")]
    measures = [(n, plugins.summary("measures", n)) for n in plugins.names("measures")]
    studies = [(n.replace("_", "-"), plugins.summary("studies", n)) for n in plugins.names("studies")]
    printing.print_tables([
        printing.listing("Attentions", ("name", "approximates", "implementations", "summary"), attentions),
        printing.listing("Measures", ("name", "summary"), measures),
        *([printing.listing("Studies", ("name", "summary"), studies)] if studies else []),
        printing.listing("Inputs", ("name", "summary"), _INPUTS),
    ], form)


def _attention(name: str) -> tuple[str, str, str, str]:
    try:
        facts = plugins.facts("attention", name)
    except PluginError:
        facts = {}
    impls = facts.get("IMPLS", ())
    return (name, str(facts.get("APPROXIMATES") or "-"), ", ".join(impls) if isinstance(impls, tuple) else "-",
            plugins.summary("attention", name))


@click.command("env")
@click.option("--format", "form", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
def env_command(form: str) -> None:
    """Show the environment that records made here would carry."""
    from softbench import environment, process, session

    config = session.default()
    state = process.apply(config.process)
    found = environment.take(state, session.device(config.sweep.device))
    if form == "jsonl":
        click.echo(json.dumps(found))
        return
    width = max(map(len, found))
    for key, value in found.items():
        if key != "command":
            click.echo(f"{key:<{width}}  {'-' if value is None else value}")


def _expected(job: Job) -> list[str]:
    from softbench.reports import format as text

    try:
        cost = job.subject.expected(job.case)
    except Unsupported:
        return [text.MISSING] * 2
    return [text.quantity(cost.flops, "flop"), text.quantity(cost.elements * 4, "B")]


def print_plan(jobs: Sequence[Job], form: str) -> None:
    """The cases of a sweep with what they should cost, without running any."""
    from softbench.reports import format as text
    from softbench.sweep import resolved_impl

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
