"""Whatever is written behind a flag of the commands that read, it ends in an answer or in one line of error."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from softbench.cli import cli

STORED = Path(__file__).parents[2] / "results" / "memory-cpu.jsonl"
Run = Callable[..., tuple[int, str, str]]
ODD = ("", "nan", "inf", "-1", "0", "1e400", "9" * 30, "1.5", "sotf", "\udcff", "a" * 5000, "a\nb", ",", ":", "=",
       "a=b", "/dev/null", "/", "*", "[", "{0}", "0x10", "１２", "@", "x@y", "none")
NEEDED = {"show": ("x.jsonl",), "plot": ("x.jsonl", "--out", "p.svg"), "report": ("x.jsonl", "--out", "p.html"),
          "export": ("x.jsonl", "--format", "junit"), "compare": ("x.jsonl", "x.jsonl"), "list": (), "info": ("soft",)}


@pytest.mark.parametrize("verb", NEEDED)
def test_no_value_of_a_flag_ends_in_a_traceback(run: Run, verb: str) -> None:
    shutil.copy(STORED, "x.jsonl")
    source = random.Random(verb)
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    flags = [parameter.opts[0] for parameter in command.params
             if isinstance(parameter, click.Option) and not parameter.is_flag]
    for flag in flags:
        for odd in source.sample(ODD, 10):
            code, _, err = run(verb, *NEEDED[verb], f"{flag}={odd}")
            assert code in (0, 1, 2, 3), (flag, odd)
            assert code != 2 or err.count("\n") == 1, (flag, odd, err)
    for odd in source.sample(ODD, 6):
        code, _, err = run(verb, f"./{odd}" if odd.startswith("-") else odd, *NEEDED[verb][1:])
        assert code in (0, 1, 2, 3), odd
    assert STORED.read_bytes() == Path("x.jsonl").read_bytes()
