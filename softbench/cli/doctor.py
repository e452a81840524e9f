"""`softbench doctor`: how far the timings of this machine can be trusted, and what to do about it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from softbench.cli import _printing, _running, _scope
from softbench.compare import rule
from softbench.compare.verdicts import Terms
from softbench.errors import SoftbenchError
from softbench.gate import ending
from softbench.machine import checks, cpu_share

_THRESHOLD = 0.02


@click.command("doctor", context_settings=_running.CONTEXT)
@_scope.options
@click.option("--rounds", type=click.IntRange(min=2, max=1000), default=12, show_default=True,
              help="A/A rounds that the noise is taken from; 0.5 to 5 s each.")
@click.option("--slice-ms", type=_running.Number(min=1, max=60_000), default=100.0, show_default=True, metavar="MS",
              help="How long each of the four places of a round lasts.")
@click.option("--look-only", is_flag=True, help="Look at the machine; measure nothing.")
@click.option("--out", "folder", type=click.Path(path_type=Path), metavar="FOLDER",
              help="Where the noise of this machine is kept. [results/doctor]")
@click.option("--format", "form", type=click.Choice(("table", "md")), default="table", show_default=True,
              help="How tables are written.")
@ending.in_order()
def doctor_command(rounds: int, slice_ms: float, look_only: bool, folder: Path | None, form: str,
                   **flags: Any) -> None:
    """Can this machine's timings be trusted, and down to which change?

    It looks at the machine, then runs the same code against itself (A/A) to see how much its timings scatter. What it
    finds is kept; `softbench check` and `compare` call nothing a change that is below twice this noise.
    """
    busy = _busy()
    if look_only:
        _printing.print_tables([_states(checks.look(busy=busy))], form)
        return
    from softbench.gate import noise as noises
    from softbench.gate import source, store
    from softbench.gate.check import Check, plan
    from softbench.gate.paired import Pair

    scope = {"attn": "softmax,soft", "tokens": "1k", "mode": "forward"} | {k: v for k, v in flags.items() if v}
    head = source.head()
    check = Check(_scope.take(scope), Terms(_THRESHOLD), slice_ms=slice_ms, say=_printing.say)
    pair = Pair(head, head, plan(check, head))
    noise = noises.measure(pair, rounds)
    if not noise.units:
        raise SoftbenchError("No case could be measured, so that nothing is known of this machine's noise: "
                             f"{pair.record(0, 1).note}.")
    environment = pair.environments[1]
    states = checks.look(busy=busy, denormals=str(environment.get("denormals", "")))
    path = store.write(folder or store.NOISE, noises.as_records(noise, environment))
    _printing.print_tables([_states(states), _noise(noise, pair)], form)
    _printing.say(f"Noise of this machine: {path}")


def _busy() -> float | None:
    """Share of the CPU that other processes take, over a second."""
    before = cpu_share.now()
    time.sleep(1.0)
    after = cpu_share.now()
    return (after - before).foreign_share if before and after else None


def _states(states: Any) -> Any:
    rows = [(one.what, one.state, one.value, one.advice) for one in states]
    return _printing.listing("What on this machine disturbs timings.", ("what", "state", "seen", "advice"), rows)


def _noise(noise: Any, pair: Any) -> Any:
    first, cap = pair.plan.first, pair.plan.cap
    looks = rule.looks(first, cap)
    rows = [("one round of A/A", _percent(noise.rounds)), ("run to run", _percent(noise.runs)),
            (f"noise floor ({first} rounds)", _percent(noise.floor))]
    counts = [min(first * 2**look, cap) for look in range(looks)]
    rows += [(f"found 9 times in 10 by {count} rounds", _percent(noise.detectable(count, _THRESHOLD, looks)))
             for count in counts]
    title = f"Noise of identical code, from {noise.units} rounds: standard deviations, then the smallest slowdown."
    return _printing.listing(title, ("what", "of a time"), rows)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
