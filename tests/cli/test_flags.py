"""The same flag takes the same words in every command."""

from __future__ import annotations

from collections.abc import Callable

import click
import pytest

from softbench import plugins
from softbench.cli import _running, _scope, cli
from softbench.errors import UsageError

Run = Callable[..., tuple[int, str, str]]
CONTEXT = click.Context(cli)

# A flag -> the kind of value that it takes.
FLAGS = {
    "--memory-limit": "memory", "--memory": "memory", "--copy": "memory",
    "--timeout": "time", "--latency": "time", "--budget": "time",
    "--rep": "ms", "--warmup": "ms", "--block": "ms", "--patience": "ms",
    "--mode": "mode", "--dtype": "dtype", "--dtypes": "dtype", "--condition-dtypes": "dtype",
    "--attn": "attentions", "--baseline": "attention", "--inputs": "inputs", "--impl": "impl",
    "--tokens": "count", "--min-tokens": "count", "--max-tokens": "length",
    "--batch": "number", "--heads": "number", "--head-dim": "number", "--rounds": "number",
    "--seeds": "number", "--margin": "share",
    "--device": "device", "--threads": "from 0", "--seed": "from 0",
    "--tf32": "truth", "--cost": "truth", "--causal": "truth", "--malloc": "malloc", "--denormals": "denormals",
}
# A kind -> words that each command with such a flag takes, and words that each refuses.
WORDS = {
    "memory": (("2GB", "512 MiB", "2147483648"), ("much", "50ms", "0", "nan", "-1GiB")),
    "time": (("2s", "1m", "1500ms", "3"), ("soon", "2GiB", "nan", "-1s")),
    "ms": (("20", "0.02s"), ("fast", "2GiB", "nan", "-1")),
    "mode": (("forward", "training, forward_backward"), ("train", "forward,,")),
    "dtype": (("bfloat16, float32",), ("float23", "float32,")),
    "attentions": (("soft:landmarks=16, performer",), ("sotf", "soft,soft", "soft,", "soft:landmarks")),
    "attention": (("softmax",), ("sotf", "softmax,soft")),
    "inputs": (("normal", "structured:0.5"), ("odd", "structured:x")),
    "impl": (("auto",), ("odd",)),
    "count": (("256", "0064"), ("0", "-1", "1.5", "4kk")),
    "length": (("4096", "4k"), ("0", "-1", "1.5", "4kk")),
    "number": (("2",), ("0", "-1", "1.5", "many")),
    "share": (("0.05",), ("-1", "2", "wide")),
    "from 0": (("0", "1"), ("-1", "1.5", "one")),
    "device": (("cpu", "auto"), ("gpu", "cpu:x")),
    "truth": (("true", "no"), ("maybe",)),
    "malloc": (("fixed", "default"), ("fast",)),
    "denormals": (("flush", "keep"), ("fast",)),
}
# What a command needs besides, so that a flag of it means something, or that little is loaded.
BESIDE = {
    "fit": ("--memory", "1GiB"), "scaling": ("--costs", "memory"),
    "approx-error": ("--sizes", "16", "--tokens", "256", "--attn", "soft", "--cost", "false"),
}
ONE_MODE = ("flops", "operators")  # measures of forward calls alone
PROGRAMMES = [*plugins.names("measures"), *(name.replace("_", "-") for name in plugins.names("studies"))]


def flags(verb: str) -> list[str]:
    """The flags of a command, but those that all get from `run_options`."""
    command = cli.get_command(CONTEXT, verb)
    assert command is not None
    common = {"--view", *(flag for option in _running.run_options("cases") for flag in option.opts)}
    return [flag for parameter in command.params for flag in parameter.opts
            if flag.startswith("--") and flag not in common]


@pytest.mark.parametrize("verb", [verb for verb in PROGRAMMES if verb not in ("memory", "operators")])  # as flops
def test_a_flag_takes_the_words_of_its_kind(run: Run, verb: str) -> None:
    wrong = []
    for flag in set(flags(verb)) & set(FLAGS):
        good, bad = WORDS[FLAGS[flag]]
        beside = list(BESIDE.get(verb, ()))
        if flag == "--memory-limit" and verb in plugins.names("measures"):
            beside.append("--isolate")
        for word in (*(good[:1] if flag == "--mode" and verb in ONE_MODE else good), *bad):
            code, _, err = run(verb, *beside, f"{flag}={word}", "--dry-run")
            if code != (0 if word in good else 2):
                wrong.append((flag, word, code, err))
    assert wrong == []


def test_every_flag_of_two_commands_is_in_the_table() -> None:
    users: dict[str, list[str]] = {}
    for verb in PROGRAMMES:
        for flag in flags(verb):
            users.setdefault(flag, []).append(verb)
    of_sweeps = plugins.names("measures")
    assert set(FLAGS) <= set(users)
    shared = {flag for flag, verbs in users.items() if len(verbs) > 1 and not set(verbs) <= set(of_sweeps)}
    assert shared - set(FLAGS) == {"--image", "--precision"} & shared
    assert {"latency", "scaling"} <= set(users["--memory-limit"])


def test_the_gate_takes_the_modes_that_measures_take() -> None:
    assert _scope.take({"mode": "training", "attn": None}).modes == "forward_backward"
    with pytest.raises(UsageError, match="No mode named 'train'"):
        _scope.take({"mode": "train"})
