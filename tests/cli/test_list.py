"""`softbench list` with its filters, and `softbench info`."""

from __future__ import annotations

from pathlib import Path

import helpers
import pytest

from softbench import config, options, plugins


def names(out: str) -> list[str]:
    """The first column of the first table."""
    return [line.split()[0] for line in out.split("\n\n")[1].splitlines()[2:]]


def test_list_shows_every_attention_with_its_facts(run):
    code, out, _ = run("list")
    assert code == 0
    assert names(out) == plugins.names("attention")
    (soft,) = [line for line in out.splitlines() if line.startswith("soft ")]
    assert soft.split()[1:5] == ["landmark", "O(N)", "gaussian", "yes"]
    assert {"Measures", "Studies", "Tasks", "Inputs"} <= set(out.splitlines())


def test_list_shows_every_task_with_its_facts(run):
    tasks = run("list")[1].partition("\nTasks\n")[2].partition("\nInputs\n")[0]
    lines = [line.split() for line in tasks.splitlines() if line][2:]
    assert [line[0] for line in lines] == plugins.names("tasks")
    assert ["mqar", "tokens", "queries"] in [line[:3] for line in lines]
    assert "Tasks" not in run("list", "--linear")[1]


def test_info_prints_a_task_and_a_file_of_one(run, tmp_path: Path):
    code, out, _ = run("info", "mqar")
    assert code == 0
    assert out.startswith("MQAR: multi-query associative recall.")
    assert {"chance", "0.125"} <= set(out.partition("\nFacts\n")[2].split())
    assert "keys with a value, each asked for once" in out.partition("\nSettings\n")[2]
    code, out, _ = run("info", helpers.write_plugin(tmp_path, helpers.SOUND_TASK, "mine"))
    assert code == 0
    assert "different tokens" in out


@pytest.mark.parametrize(("flags", "constant", "wanted"), [
    (("--family", "landmark"), "FAMILY", lambda value: value == "landmark"),
    (("--linear",), "COMPLEXITY", lambda value: value == "N"),
    (("--not-linear",), "COMPLEXITY", lambda value: value != "N"),
    (("--linear-in-v",), "LINEAR_IN_V", lambda value: value is True),
])
def test_filters_leave_the_attentions_asked_for_alone(run, flags, constant, wanted):
    out = run("list", *flags)[1]
    expected = [name for name in plugins.names("attention") if wanted(plugins.facts("attention", name)[constant])]
    assert names(out) == expected
    assert 0 < len(expected) < len(plugins.names("attention"))
    assert "Measures" not in out


def test_filters_are_joined(run):
    assert names(run("list", "--family", "exact", "--not-linear")[1]) == ["gaussian", "softmax"]
    code, out, err = run("list", "--family", "exact", "--linear")
    assert (code, out, err) == (2, "", "Error: No attention is left by these filters.\n")


def test_unknown_family_is_told(run):
    code, out, err = run("list", "--family", "landmarks")
    assert (code, out) == (2, "")
    assert err == "Error: No family named 'landmarks'. Did you mean 'landmark'?\n"


@pytest.mark.parametrize("name", plugins.names("attention"))
def test_info_prints_docstring_facts_and_options(run, name):
    code, out, _ = run("info", name)
    attention = helpers.load(name)
    assert code == 0
    assert out.startswith((attention.module.__doc__ or "").partition("\n")[0])
    assert "Source: " in out
    assert f"softbench/attention/{name}.py" in out
    table = out.partition("\nOptions\n")[2]
    assert all(f"\n{field} " in table for field in options.to_dict(attention.options))


def test_info_of_a_file(run, tmp_path: Path):
    source = helpers.SOUND.replace('FAMILY = "feature map"\nCOMPLEXITY = "N"\n', "")
    assert source != helpers.SOUND
    code, out, _ = run("info", helpers.write_plugin(tmp_path, source, "mine"))
    assert code == 0
    assert out.startswith("Linear attention q (k^T v)")
    facts = dict(line.split(None, 1) for line in out.splitlines() if line.startswith(("family", "claims")))
    assert facts == {"family": "-", "claims": "-"}


@pytest.mark.parametrize(("arguments", "message"), [
    (("soff",), "No attention or task named 'soff'. Did you mean 'soft'?"),
    (("./nowhere.py",), "No attention file './nowhere.py'."),
    ((), "Missing argument 'NAME'."),
])
def test_info_of_nothing_is_told(run, arguments, message):
    code, out, err = run("info", *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_defaults_are_printed_as_a_bench_toml(run):
    code, out, _ = run("list", "--defaults")
    assert (code, out) == (0, config.defaults())
    assert 'attn = "soft,performer"   # attentions' in out
    for flags in (("--linear",), ("--format", "md")):
        code, _, err = run("list", "--defaults", *flags)
        assert (code, err.count("\n")) == (2, 1)
