"""What the programme runs, of versions that have more or less of it; and what it makes of a command that fails."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import helpers
import pytest
from compare.fake_runs import timed
from reports import fake_records as fake

from softbench import config, plugins
from softbench.compare.sides import Side
from softbench.compare.verdicts import Terms, compare
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
    assert programme.attentions(here) == sorted(n for n in helpers.SEEING_ALL if not plugins.is_path(n))
    steps = programme.exact(Scope(), here)
    assert [step.measure for step in steps] == ["flops", "memory", "operators", "flops", "operators",
                                                "approx_error", "pinv"]
    assert [s.measure for s in programme.exact(Scope("soft"), here, studies=False)] == ["flops", "memory", "operators"]
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


@pytest.mark.parametrize("code", [1, 2, 137])
def test_a_command_that_ended_midway_is_a_failure_of_the_tool(version: Source, code: int) -> None:
    """Its records are not all there, and what lacks must be neither missing nor new."""
    line = fake.record("flops", unit="flop", value=1.0).to_json() + "\n"
    command(version, f"out.write_text({line!r}); print('Error: no room', file=sys.stderr); sys.exit({code})")
    with pytest.raises(SoftbenchError, match=f"did not finish \\(exit {code}\\): no room"):
        programme.run([Step("flops", ())], version)


def test_a_bench_toml_that_repeats_defaults_does_not_reach_an_older_version(version: Source, tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench.toml").write_text(config.defaults())
    monkeypatch.chdir(tmp_path)
    line = fake.record("flops", unit="flop", value=1.0).to_json() + "\n"
    command(version, "config = Path(sys.argv[sys.argv.index('--config') + 1]); assert config.read_text() == ''\n"
                     f"out.write_text({line!r})")
    assert len(programme.run([Step("flops", ())], version)) == 1


def test_an_attention_that_the_base_does_not_have_yet_is_not_asked_of_it(version: Source) -> None:
    here = source.head()
    assert programme.known(Scope("soft,linformer:proj=9,./mine.py"), version, here) == Scope("soft,./mine.py")
    assert programme.known(Scope("linformer"), version, here) is None
    assert programme.known(Scope("typo"), version, here) == Scope("typo")  # the version's own words say what is wrong
    assert programme.known(Scope(), version, here) == Scope()


def test_times_of_all_attentions_are_of_fewer_cases_than_those_of_named_ones() -> None:
    assert Scope().timed() == Scope(tokens="1k", modes="forward_backward")
    assert Scope("soft").timed() == Scope("soft", "256,1k", "forward,forward_backward")
    assert Scope("", "64", "forward").timed() == Scope("", "64", "forward")
    (step,) = programme.times(Scope(), source.head(), 1)
    assert step.arguments[step.arguments.index("--tokens") + 1] == "1k"


_FATTER = '''

def _forward(self, q, k, v, grid, call=Softmax.forward):
    held = q[:, :, : q.shape[2] // 10] @ k.mT  # a tenth of the scores, which are half of the work
    return call(self, q, k, v, grid) + 0.0 * held.sum()


def _cost(shape, options, call=cost):
    known = call(shape, options)
    return Cost(1.05 * known.flops, known.elements)


Softmax.forward, cost = _forward, _cost
'''


def test_five_per_cent_more_operations_and_bytes_are_caught(tmp_path: Path) -> None:
    """The whole way: the package itself, and a copy whose softmax does and holds a little more."""
    shutil.copytree(source.HERE / "softbench", tmp_path / "softbench", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "softbench" / "attention" / "softmax.py").open("a") as file:
        file.write(_FATTER)
    scope = Scope("softmax:impl=math", "400", "forward", device="cpu", threads=1)
    found = []
    for version in (source.head(), Source(tmp_path.resolve(), "fatter")):
        steps = [step for step in programme.exact(scope, version, studies=False) if step.measure != "operators"]
        found.append(Side(version.name, "", programme.run(steps, version), []))
    outcome = compare(found[0], found[1], Terms())
    rows = {row.record.quantity: row for row in outcome.rows if row.record.quantity in ("flops_torch", "peak_memory")}
    assert {quantity: row.verdict for quantity, row in rows.items()} == {"flops_torch": "worse", "peak_memory": "worse"}
    assert rows["flops_torch"].ratio == pytest.approx(1.05, abs=1e-3)
    assert outcome.exit_code() == 3


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
