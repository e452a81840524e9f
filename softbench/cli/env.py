"""`softbench env`: what this machine is."""

from __future__ import annotations

import json

import click

from softbench.cli import _printing


@click.command("env")
@click.option("--format", "form", type=click.Choice(["table", "jsonl"]), default="table", show_default=True)
def env_command(form: str) -> None:
    """Show the environment that records made here would carry."""
    from softbench.bench import session
    from softbench.machine import device, environment
    from softbench.processes import setup

    config = session.default()
    state = setup.apply(config.process)
    here = environment.take(state, device.find(config.sweep.device))
    if form == "jsonl":
        _printing.echo(json.dumps(here))
        return
    width = max(map(len, here))
    for key, value in here.items():
        if key != "command":
            _printing.echo(f"{key:<{width}}  {'-' if value is None else value}")
