"""Every measure and study keeps the contract, and every check of it sees a plugin that does not."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import helpers
import number_contracts as contract
import pytest

from softbench import plugins, records
from softbench.contracts import measure, quantities, study
from softbench.contracts.quantities import Quantity
from softbench.errors import PluginError, UsageError

THEIRS = Path(__file__).parent / "data" / "third_party" / "theirs"
SOURCES = {"measures": (THEIRS / "entries.py").read_text(),
           "studies": (THEIRS / "long_enough.py").read_text().replace(*helpers.NOISY)}
CHECKS = {"measures": contract.MEASURE_CHECKS, "studies": contract.STUDY_CHECKS}
DEFECTS = {"measures": helpers.MEASURE_DEFECTS, "studies": helpers.STUDY_DEFECTS}
EVERY = [(kind, name) for kind in CHECKS for name in plugins.names(kind)]
UNRUN = ("light", "described", "modes", "quick", "tasks", "views")  # checks that run nothing
# Of studies, these are run in tests of their own, as they take long even when they are quick.
LONG = ("accuracy", "approx_error", "crossover", "fit", "reproduce", "scaling")
# Their headline comes with another of their tasks than the first.
LATER = ("pinv",)


def loaded(kind: str, name: str) -> ModuleType:
    return measure.load(name) if kind == "measures" else study.load(name)


@pytest.mark.parametrize(("kind", "name", "check"), [
    (kind, name, check) for kind, name in EVERY for check in CHECKS[kind]
    if check in UNRUN or not (kind == "studies" and (name in LONG or (name in LATER and check == "declared")))])
def test_plugin_keeps_the_contract(kind: str, name: str, check: str) -> None:
    module = loaded(kind, name)
    CHECKS[kind][check](module, contract.run_of(kind, name, module))


def written(folder: Path, source: str) -> ModuleType:
    """The source as a module."""
    path = folder / "broken_numbers.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("broken_numbers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "broken_numbers", module)  # where dataclasses look their module up
        spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("kind", "check"), [(kind, check) for kind in CHECKS for check in CHECKS[kind]])
def test_sound_plugin_passes(tmp_path: Path, kind: str, check: str) -> None:
    module = written(tmp_path, SOURCES[kind])
    CHECKS[kind][check](module, contract.run_of(kind, "broken_numbers", module))


@pytest.mark.parametrize(("kind", "defect"), [(kind, defect) for kind in DEFECTS for defect in DEFECTS[kind]])
def test_defect_is_seen(tmp_path: Path, kind: str, defect: str) -> None:
    check, sound, broken = DEFECTS[kind][defect]
    assert sound in SOURCES[kind]
    module = written(tmp_path, SOURCES[kind].replace(sound, broken))
    with pytest.raises((AssertionError, UsageError)):
        CHECKS[kind][check](module, contract.run_of(kind, "broken_numbers", module))


def test_every_check_sees_some_defect() -> None:
    for kind, checks in CHECKS.items():
        assert {check for check, *_ in DEFECTS[kind].values()} == set(checks)


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[1] / "results").glob("*.jsonl")), ids=lambda p: p.stem)
def test_what_is_committed_is_listed(file: Path) -> None:
    found, _ = records.read(file)
    for name in {record.measure for record in found}:
        if kind := next((kind for kind in CHECKS if name in plugins.names(kind)), ""):
            mine = [record for record in found if record.measure == name]
            assert contract.unlisted(mine, loaded(kind, name)) == set()


@pytest.mark.parametrize(("changed", "words"), [
    ({"unit": "parsec"}, "unit 'parsec' is none of s, B"), ({"kind": "guess"}, "kind 'guess' is none of time, exact"),
    ({"better": "lower"}, "better 'lower' is none of less, more"), ({"answers": "all"}, "answers 'all' is none of"),
    ({"better": "more"}, "a time is in s, less being better"), ({"unit": "B"}, "a time is in s, less being better"),
    ({"unit": "sample/s"}, "a time is in s, less being better")])
def test_a_quantity_that_nothing_could_read_is_refused(changed: dict[str, str], words: str) -> None:
    sound = {"unit": "s", "kind": "time", "better": "less"}
    Quantity("delay", **sound)  # type: ignore[arg-type]
    with pytest.raises(PluginError, match=re.escape(f"Quantity 'delay': {words}")):
        Quantity("delay", **sound | changed)  # type: ignore[arg-type]


@pytest.mark.parametrize(("said", "words"), [
    ("()", "must be a tuple"), ("['x']", "must be a tuple"), ("('x',)", "must be a tuple"),
    ("(Quantity('x', '1', 'exact'), Quantity('x', '1', 'exact'))", "holds 'x' twice")])
def test_a_plugin_that_lists_none_is_told_so(said: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("odd")
    exec(f"from softbench.contracts.quantities import Quantity\nQUANTITIES = {said}", vars(module))
    monkeypatch.setattr(plugins, "load", lambda *_: module)
    with pytest.raises(PluginError, match=words):
        quantities.load("measures", "odd", ())


@pytest.mark.parametrize(("constants", "expected"), [
    ({"QUANTITY": "x", "UNIT": "1", "BETTER": "higher", "DETERMINISTIC": True}, ("seeded", "more")),
    ({"QUANTITY": "x", "UNIT": "1", "DETERMINISTIC": False}, ("derived", None)),
    ({"QUANTITY": "x", "UNIT": "B", "BETTER": "lower", "DETERMINISTIC": True}, ("exact", "less")),
    ({"QUANTITY": "x", "UNIT": "s", "BETTER": "lower", "DETERMINISTIC": False}, ("time", "less"))])
def test_what_plugins_said_before_is_still_understood(constants: dict[str, object], expected: tuple[str, str | None],
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("older")
    vars(module).update(constants)
    monkeypatch.setattr(plugins, "load", lambda *_: module)
    known, = quantities.load("studies", "older", ()).QUANTITIES
    assert (known.name, known.unit, known.kind, known.better) == ("x", constants["UNIT"], *expected)
