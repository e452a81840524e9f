"""Filters of result files: what they keep, and that a name which no record has is a mistake with a suggestion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "results"
Run = Callable[..., tuple[int, str, str]]
LATENCY, DIGITS = str(RESULTS / "latency-cpu.jsonl"), str(RESULTS / "digits" / "soft-tiny.jsonl")
FILES = (LATENCY, str(RESULTS / "memory-cpu.jsonl"), str(RESULTS / "approx-error-cpu.jsonl"), DIGITS)
VERBS = (("show",), ("plot", "--out", "p.svg"))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("arguments", "said"), [
    (("--attn", "sotf"), "No attention in these files named 'sotf'. Did you mean 'soft'?"),
    (("--attn", "soft,nope"), "No attention in these files named 'nope'. Valid: "),
    (("--attn", ""), "No attention in these files named ''. Valid: "),
    (("--attn", "cosformer"), "No attention in these files named 'cosformer'."),
    (("--model", "soft-tny"), "No model in these files named 'soft-tny'. Did you mean 'soft-tiny'?"),
    (("--measure", "latncy"), "No measure in these files named 'latncy'. Did you mean 'latency'?"),
    (("--measure", "latency,memry"), "No measure in these files named 'memry'. Did you mean 'memory'?"),
    (("--where", "dtype=float23"), "No value of dtype in these files named 'float23'. Did you mean 'float32'?"),
    (("--where", "tokens="), "No value of tokens in these files named ''. Valid: "),
    (("--where", "dtpe=float32"), "No column named 'dtpe'. Did you mean 'dtype'?"),
    (("--where", "dtype"), "'dtype' is not COLUMN=VALUE"),
    (("--where", "mode=forward", "--where", "mode=x"), "--where names 'mode' twice"),
    (("--baseline", "sofmax"), "No attention or model in these files named 'sofmax'. Did you mean 'softmax'?"),
    (("--measure", "memory", "--model", "soft-tiny"), "No model in these files named 'soft-tiny'."),
])
def test_a_name_that_no_record_has_is_a_mistake(run: Run, verb: tuple[str, ...], arguments: tuple[str, ...],
                                                said: str) -> None:
    code, out, err = run(*verb, *FILES, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not Path("p.svg").exists()


def test_names_that_exist_but_not_together_are_a_mistake(run: Run) -> None:
    code, out, err = run("show", LATENCY, "--where", "tokens=256", "--where", "cols=128")
    assert (code, out) == (2, "")
    assert "No record fits" in err
    assert "attentions linformer, nystromformer, performer, soft, softmax" in err


@pytest.mark.parametrize(("arguments", "said"), [
    (("export", LATENCY, "--format", "junit", "--measure", "memory"), "Valid: latency"),
    (("compare", LATENCY, LATENCY, "--measure", "latncy"), "Did you mean 'latency'?"),
    (("compare", f"{LATENCY}@sotf", "@soft"), "Did you mean 'soft'?"),
    (("report", LATENCY, "--out", "r.html", "--baseline", "sotf"), "Did you mean 'soft'?"),
])
def test_other_verbs_know_the_names_too(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_measures_may_be_several_and_written_as_commands_are(run: Run) -> None:
    flags = ("--measure", "latency,approx-error", "--where", "dtype=float32", "--format", "jsonl")
    _, out, _ = run("show", *FILES, *flags)
    assert {json.loads(line)["measure"] for line in out.splitlines()} == {"latency", "approx_error"}


def test_the_baseline_stays_beside_what_is_chosen(run: Run) -> None:
    _, out, _ = run("show", LATENCY, "--attn", "performer", "--where", "tokens=256", "--format", "jsonl")
    assert [json.loads(line)["label"] for line in out.splitlines()] == ["softmax", "performer"]
    assert run("show", LATENCY, "--attn", "performer", "--baseline", "none")[0] == 0
