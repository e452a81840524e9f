"""What the programme runs, of versions that have more or less of it; and what it makes of a command that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from compare.fake_runs import timed
from reports import fake_records as fake

from softbench import plugins
from softbench.errors import SoftbenchError
from softbench.gate import programme, source
from softbench.gate.programme import Scope, Step
from softbench.gate.source import Source

_MAIN = '''
import sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
CODE
'''


@pytest.fixture
def version(tmp_path: Path) -> Source:
    """A package of two attentions and the measures flops and latency, whose command does as it is told."""
    package = tmp_path.resolve() / "old" / "softbench"
    for name in ("attention/soft", "attention/mean", "attention/_shared", "measures/flops", "measures/latency"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text("")
    (package / "__init__.py").write_text("")
    return Source(package.parent, "old", "c0ffee", False)


def command(version: Source, code: str) -> Source:
    (version.root / "softbench" / "__main__.py").write_text(_MAIN.replace("CODE", code))
    return version


def test_a_version_is_asked_only_for_what_it_has(version: Source) -> None:
    assert programme.attentions(version) == ["mean", "soft"]
    (step,) = programme.exact(Scope(), version)
    assert step.measure == "flops"
    assert step.arguments[:4] == ("--attn", "mean,soft", "--baseline", "none")


def test_this_version_has_the_whole_programme() -> None:
    here = source.head()
    assert programme.attentions(here) == sorted(n for n in plugins.names("attention") if not plugins.is_path(n))
    steps = programme.exact(Scope(), here)
    assert [step.measure for step in steps] == ["flops", "operators", "memory", "flops", "operators", "pinv",
                                                "approx_error"]
    assert [s.measure for s in programme.exact(Scope("soft"), here, studies=False)] == ["flops", "operators", "memory"]
    assert [s.measure for s in programme.times(Scope(), here, 3)] == ["latency"] * 3


def test_models_are_asked_for_where_attentions_are_not_named_alone(version: Source) -> None:
    def models(scope: Scope) -> list[str]:
        return [step.arguments[1] for step in programme.exact(scope, source.head(), studies=False)
                if step.arguments[0] == "--model"]

    assert models(Scope()) == ["soft-tiny,soft-norm-tiny"] * 2
    assert models(Scope("soft")) == models(Scope(model="none")) == []
    assert models(Scope("soft", model="soft-small")) == ["soft-small"] * 2
    assert "--model" not in programme.exact(Scope(), version)[0].arguments


def test_every_measure_is_asked_for_modes_that_it_has() -> None:
    for step in programme.exact(Scope(), source.head(), studies=False):
        modes = step.arguments[step.arguments.index("--mode") + 1].split(",")
        assert set(modes) <= set(plugins.load("measures", step.measure).MODES)


def test_the_scope_is_passed_on(version: Source) -> None:
    flags = Scope("soft", "64", "forward", "bfloat16", "cpu", 2).flags(version)
    assert dict(zip(flags[::2], flags[1::2], strict=True)) == {
        "--attn": "soft", "--baseline": "none", "--tokens": "64", "--mode": "forward", "--dtype": "bfloat16",
        "--device": "cpu", "--threads": "2"}


def test_records_are_read_and_times_that_came_along_are_dropped(version: Source) -> None:
    lines = timed().to_json() + "\n" + fake.record("flops", unit="flop", value=1.0, samples=[1.0]).to_json() + "\n"
    command(version, f"out.write_text({lines!r})")
    told: list[str] = []
    found = programme.run([Step("flops", ())], version, lambda step: told.append(step.measure))
    assert ([record.unit for record in found], told) == (["flop"], ["flops"])
    assert found[0].environment["commit"] == "c0ffee"
    assert len(programme.run([Step("latency", (), timed=True)] * 2, version)) == 4


def test_cases_that_failed_are_records_too(version: Source) -> None:
    line = fake.failed("failed", unit="flop").to_json() + "\n"
    command(version, f"out.write_text({line!r}); sys.exit(5)")
    assert [record.status for record in programme.run([Step("flops", ())], version)] == ["failed"]


@pytest.mark.parametrize(("code", "words"), [
    ("sys.exit('Error: No attention named x.')", "gave no records (exit 1): No attention named x."),
    ("import os; os._exit(7)", "gave no records (exit 7): it said nothing"),
    ("out.write_text('{')", "gave no records (exit 0)"), ("1 / 0", "ZeroDivisionError")])
def test_a_command_that_gives_nothing_is_a_failure_of_the_tool(version: Source, code: str, words: str) -> None:
    with pytest.raises(SoftbenchError) as raised:
        programme.run([Step("approx_error", ())], command(version, code))
    assert words in str(raised.value)
    assert str(raised.value).startswith("`softbench approx-error` of old")


def test_children_import_the_version_they_are_of(version: Source, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the working directory nor PYTHONPATH may bring in another."""
    other = tmp_path / "other"
    (other / "softbench").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/plugins", str(other), str(source.HERE)]))
    monkeypatch.chdir(source.HERE)
    assert programme.environment(version)["PYTHONPATH"] == os.pathsep.join([str(version.root), "/plugins"])
    line = fake.record("flops", unit="flop", value=1.0).to_json() + "\n"
    command(version, f"import softbench; assert softbench.__file__.startswith({str(version.root)!r}), softbench\n"
                     f"out.write_text({line!r})")
    assert len(programme.run([Step("flops", ())], version)) == 1
