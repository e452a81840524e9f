"""Configuration: who wins over whom, bench.toml against the built-in defaults, and everything that can be mistyped."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from softbench import config, options, plugins
from softbench.config import Process, SweepConfig
from softbench.errors import PluginError, UsageError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str | bytes, name: str = "bench.toml") -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_without_a_file_the_defaults_hold() -> None:
    assert config.load(None) == config.Config(SweepConfig(), Process())


def test_flags_win_over_set_over_file_over_defaults() -> None:
    write('[sweep]\nheads = 2\nbatch = 2\nhead_dim = 2\n[latency]\nrep = 1\nwarmup = 1\n')
    found = config.load(None, ["sweep.batch=3", "sweep.head_dim=3", "latency.rep=2"], {"sweep": {"head_dim": "4"}})
    assert (found.sweep.seed, found.sweep.heads, found.sweep.batch, found.sweep.head_dim) == (0, "2", "3", "4")
    assert found.measures == {"latency": {"rep": "2", "warmup": 1}}
    assert config.load(None, flags={"latency": {"rep": 9}}).measures["latency"]["rep"] == 9


def test_given_file_replaces_the_one_in_the_folder() -> None:
    write("[sweep]\nheads = 2\nbatch = 2\n")
    assert config.load(write("[sweep]\nheads = 4\n", "other.toml")).sweep == SweepConfig(heads="4")


@pytest.mark.parametrize(("value", "text"), [
    ("[1, 8]", "1,8"), ("8", "8"), ('"1,8"', "1,8"), ('["1k", 4]', "1k,4"), ("[]", ""),
])
def test_arrays_and_numbers_read_as_the_flag_would(value: str, text: str) -> None:
    write(f"[sweep]\nbatch = {value}\n")
    assert config.load(None).sweep.batch == text


def test_seed_stays_a_number() -> None:
    write("[sweep]\nseed = 7\n")
    assert config.load(None).sweep.seed == 7
    assert config.load(None, ["sweep.seed=8"]).sweep.seed == 8


def test_tokens_given_later_replace_a_grid_given_before() -> None:
    write('[sweep]\ngrid = "7x9"\n')
    assert config.load(None).sweep.grid == "7x9"
    assert config.load(None, ["sweep.tokens=64"]).sweep.grid == ""
    assert config.load(None, flags={"sweep": {"tokens": "64"}}).sweep.grid == ""
    assert config.load(None, ["sweep.tokens=64"], {"sweep": {"grid": "2x2"}}).sweep.grid == "2x2"
    with pytest.raises(UsageError, match=r"--tokens and --grid .* Give one"):
        config.load(None, flags={"sweep": {"tokens": "64", "grid": "2x2"}})


def test_attentions_and_models_take_each_others_place() -> None:
    write('[sweep]\nmodel = "soft-tiny"\nimage = 64\ntokens = "4k"\nbaseline = "soft"\n')
    assert config.load(None).sweep.model == "soft-tiny"  # tokens of the file do not matter then
    assert config.load(None).sweep.baseline == "soft"  # written beside the models
    assert config.load(None, flags={"sweep": {"attn": "soft"}}).sweep.model == ""
    assert config.load(None, flags={"sweep": {"model": "timm:x"}}).sweep.baseline == ""
    assert config.load(None, ["sweep.baseline=a"], {"sweep": {"model": "timm:x"}}).sweep.baseline == "a"
    for key in ("tokens", "grid", "heads", "head_dim", "inputs"):
        with pytest.raises(UsageError, match=f"--{key.replace('_', '-')} is for attentions"):
            config.load(None, flags={"sweep": {key: "1"}})
        with pytest.raises(UsageError, match="is for attentions"):
            config.load(None, [f"sweep.{key}=1"])
    with pytest.raises(UsageError, match="--attn is for attentions"):
        config.load(None, flags={"sweep": {"attn": "soft", "model": "soft-tiny"}})
    with pytest.raises(UsageError, match="--image is for whole models"):
        config.load(None, flags={"sweep": {"attn": "soft", "image": "64"}})


def test_process_section_is_parsed() -> None:
    write('[process]\nthreads = 3\nmalloc = "default"\ntf32 = true\n')
    assert config.load(None, ["process.denormals=keep"]).process == Process(3, "default", "keep", True)


def test_attention_tables_are_kept_and_checked() -> None:
    write("[attention.soft]\nlandmarks = 16\n")
    found = config.load(None, ["attention.performer.features=32"])
    assert found.attention == {"soft": {"landmarks": 16}, "performer": {"features": "32"}}


@pytest.mark.parametrize(("text", "message"), [
    ("[sweeep]\n", r"No section named 'sweeep'. Did you mean 'sweep'\?"),
    ("[lattency]\nrep = 3\n", r"No section named 'lattency'. Did you mean 'latency'\?"),
    ("[sweep]\ntoken = 3\n", r"No option of \[sweep\] named 'token'. Did you mean 'tokens'\?"),
    ("[process]\nthread = 3\n", r"No option of \[process\] named 'thread'. Did you mean 'threads'\?"),
    ("[latency]\nreps = 3\n", r"No option of \[latency\] named 'reps'. Did you mean 'rep'\?"),
    ("[attention.sofft]\nlandmarks = 4\n", r"No attention named 'sofft'. Did you mean 'soft'\?"),
    ("[attention.soft]\nlandmark = 4\n", r"No option of \[attention.soft\] named 'landmark'. Did you mean 'landm"),
    ("[attention.soft]\nlandmarks = 0\n", r"\[attention.soft\]: landmarks must be at least 1"),
    ("[attention]\nsoft = 4\n", r"\[attention.soft\] must be a section of keys, not '4'"),
    ("rep = 3\n", "bench.toml: rep must be a section of keys, not '3'"),
    ("sweep = 3\n", "sweep must be a section"), ("attention = []\n", "attention must be a section"),
    ("[[sweep]]\nbatch = 1\n", "sweep must be a section"),
    ("[sweep]\nbatch = true\n", "must be text"),
    ("[sweep]\nbatch = 2026-01-01\n", "must be text"), ("[sweep]\nbatch = {a = 1}\n", "must be text"),
    ("[sweep]\nseed = 1.5\n", "seed must be a whole number"), ("[sweep]\nseed = -1\n", "at least 0"),
    ("[sweep]\nseed = 2147483648\n", "at most 2147483647"), ("[sweep]\nseed = [1]\n", "whole number"),
    ("[process]\nthreads = 'all'\n", "threads must be a whole number"), ("[process]\nthreads = -1\n", "at least 0"),
    ("[process]\ntf32 = 'perhaps'\n", "true or false"), ("[process]\nmalloc = 'fix'\n", "one of fixed, default"),
    ("[latency]\nrep = nan\n", r"\[latency\]: rep must be a finite number"),
    ("[latency]\nrep = inf\n", "finite number"),
    ("[latency]\nrep = -1\n", "at least"), (f"[latency]\nrep = {'9' * 400}\n", "finite number"),
    ("[sweep\n", "bench.toml is not valid TOML: .*line 1"), ("[sweep]\na = 1\na = 2\n", "not valid TOML"),
    ("x = " + "9" * 5000, "not valid TOML"), ("x = " + "[" * 5000, "not valid TOML"),
    (b"\xff\xfe\x00", "not valid TOML"), (b"a = 1\x00", "not valid TOML"),
])
def test_bad_file_is_told_in_one_line(text: str | bytes, message: str) -> None:
    write(text)
    with pytest.raises(UsageError, match=message) as error:
        config.load(None)
    assert "\n" not in str(error.value)


def test_file_that_cannot_be_read_is_told() -> None:
    for name in ("nowhere.toml", ".", "a" * 300):
        with pytest.raises(UsageError, match=rf"Cannot read {name}: [A-Z]"):
            config.load(Path(name))
    Path("bench.toml").mkdir()
    with pytest.raises(UsageError, match=r"Cannot read bench\.toml: Is a directory"):
        config.load(None)


@pytest.mark.parametrize(("assignment", "message"), [
    ("", "is not section.key=value"), ("latency.rep", "is not section.key=value, as in latency.rep=200"),
    ("rep=3", "is not section.key=value"), ("=3", "is not"), (".=3", "is not"), ("latency.=3", "is not"),
    (".rep=3", "No section named ''"), ("latency..rep=3", r"No option of \[latency\] named ''"),
    ("latency.rep.x=3", "rep must be a finite number"), ("latency.rep=", "rep must be a finite number"),
    ("latency.rep=fast", "not 'fast'"), ("attention.soft=3", r"\[attention.soft\] must be a section"),
    ("attention=3", "is not section.key=value"), ("attention.soft.landmarks=[4]", "whole number"),
    ("process.threads=1e3", "whole number"), ("swep.batch=1", r"Did you mean 'sweep'\?"),
])
def test_bad_assignment_is_told(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config.load(None, [assignment])


def test_assignment_into_a_value_of_the_file_is_told() -> None:
    write("[latency]\nrep = 3\n")
    with pytest.raises(UsageError, match=r"'rep' in 'latency.rep.x=3' is not a section"):
        config.load(None, ["latency.rep.x=3"])


@pytest.mark.parametrize(("assignment", "value"), [
    ("latency.rep=200", "200"), (" latency.rep = 200 ", "200"), ("latency.rep=2e2", "2e2")])
def test_assignment_is_stripped(assignment: str, value: str) -> None:
    assert config.load(None, [assignment]).measures == {"latency": {"rep": value}}


def test_value_may_hold_an_equals_sign_and_commas() -> None:
    found = config.load(None, ["sweep.attn=soft:landmarks=4,performer", "sweep.batch=1,8"]).sweep
    assert (found.attn, found.batch) == ("soft:landmarks=4,performer", "1,8")


def test_section_of_a_broken_measure_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hollow.py").write_text("'''Nothing.'''\n")
    monkeypatch.setitem(plugins._builtin("attention"), "hollow", tmp_path / "hollow.py")
    monkeypatch.setitem(sys.modules, "softbench.attention.hollow", os)
    with pytest.raises(PluginError, match="Attention 'hollow' lacks Options"):
        config.load(None, ["attention.hollow.x=1"])


def sections() -> dict[str, type]:
    return {"sweep": SweepConfig, "process": Process} | {
        name: plugins.load(kind, name, ["Settings"]).Settings for kind in ("measures", "studies")
        for name in plugins.names(kind)}


def test_printed_defaults_are_read_back_as_the_defaults() -> None:
    write(config.defaults())
    tables = config._read(None)
    assert {name: list(table) for name, table in tables.items()} == {
        name: list(options.to_dict(cls())) for name, cls in sections().items()}
    found = config.load(None)
    assert (found.sweep, found.process, found.attention) == (SweepConfig(), Process(), {})
    for name, table in (found.measures | found.studies).items():
        assert options.parse(sections()[name], table, name) == sections()[name]()
    assert {*found.measures, *found.studies} == set(sections()) - {"sweep", "process"}


def test_each_printed_default_is_explained() -> None:
    lines = [line for line in config.defaults().splitlines() if line and not line.startswith("[")]
    assert len(lines) > 20
    assert [line for line in lines if len(line.partition("# ")[2].strip()) < 3] == []


def test_bench_toml_of_the_repository_holds_only_what_it_changes() -> None:
    tables = config._read(ROOT / "bench.toml")
    config.load(ROOT / "bench.toml")
    repeated = [f"{name}.{key}" for name, table in tables.items() if name != "attention" for key, value in table.items()
                if config.as_text(value) == config.as_text(options.to_dict(sections()[name]())[key])]
    assert repeated == []


def test_commented_examples_of_bench_toml_are_real(tmp_path: Path) -> None:
    lines = (ROOT / "bench.toml").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("# [attention."))
    example = tmp_path / "example.toml"
    example.write_text("\n".join(line.removeprefix("# ") for line in lines[start:]))
    assert config.load(example).attention
