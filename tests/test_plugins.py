"""Plugins: listed without being imported, loaded by name, path or entry point, and told apart when they are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from softbench import plugins
from softbench.errors import PluginError, SoftbenchError, UsageError

ROOT = Path(__file__).parents[1]
SOURCE = '"""A plugin.\n\nMore."""\nAPPROXIMATES = None\nIMPLS: tuple[str, ...] = ("eager",)\nNUMBER = len("x")\n'


def write(folder: Path, source: str | bytes, name: str = "mine.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return str(path)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a package with entry points on sys.path, as pip would: modules and a .dist-info folder."""
    monkeypatch.syspath_prepend(tmp_path)
    loaded = set(sys.modules)

    def install(entries: str, group: str = "softbench.attention", **modules: str) -> None:
        for name, source in modules.items():
            write(tmp_path, source, name.replace(".", "/") + ".py")
        info = tmp_path / "third_party-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entries}\n")
        plugins._entry_points.cache_clear()

    plugins._entry_points.cache_clear()
    yield install
    plugins._entry_points.cache_clear()
    for name in set(sys.modules) - loaded:
        del sys.modules[name]


def test_built_in_plugins_are_the_files_without_underscore() -> None:
    files = {p.stem for p in (ROOT / "softbench" / "attention").glob("[!_]*.py")}
    assert set(plugins.names("attention")) >= files
    assert {"softmax", "soft", "performer"} <= files
    assert not any(name.startswith("_") for name in plugins.names("measures"))


@pytest.mark.parametrize(("name", "message"), [
    ("sofmax", r"No attention named 'sofmax'. Did you mean 'softmax'\?"), ("qqq", "Valid: agent, "),
    ("", "No attention named ''"), ("_contract", "No attention named '_contract'"),
    ("../softmax", "No attention named"),
    ("soft.py.bak", "No attention named"),
])
def test_unknown_name_is_told_with_a_suggestion(name: str, message: str) -> None:
    for action in (plugins.load, plugins.facts):
        with pytest.raises(UsageError, match=message):
            action("attention", name)


def test_kinds_are_named_in_the_singular() -> None:
    with pytest.raises(UsageError, match=r"No measure named 'latncy'. Did you mean 'latency'\?"):
        plugins.load("measures", "latncy")


def test_tasks_come_from_files_too_and_keep_names_apart(tmp_path: Path) -> None:
    assert plugins.load("tasks", write(tmp_path, SOURCE)).APPROXIMATES is None
    with pytest.raises(PluginError, match=r"No task file 'nowhere\.py'"):
        plugins.load("tasks", "nowhere.py")
    with pytest.raises(PluginError, match="has the name of another task, 'mqar'"):
        plugins.load("tasks", write(tmp_path, SOURCE, "mqar.py"))


def test_facts_come_from_the_text_alone(tmp_path: Path) -> None:
    more = "BROKEN = {[]: 1}\nlower = 1\nA = B = 2\nHINT: int\nraise SystemExit(3)\nimport nowhere\n"
    path = write(tmp_path, SOURCE + more)
    assert plugins.facts("attention", path) == {
        "summary": "A plugin.", "APPROXIMATES": None, "IMPLS": ("eager",), "A": 2}


def test_facts_of_a_file_without_docstring(tmp_path: Path) -> None:
    assert plugins.facts("attention", write(tmp_path, "X = 1\n")) == {"summary": "", "X": 1}
    assert plugins.facts("attention", write(tmp_path, "")) == {"summary": ""}


@pytest.mark.parametrize("source", [
    "def f(:\n", b"\xff\xfe\x00\x01binary\x00", "x = 1\x00", "(" * 10000, "x = " + "-" * 50000 + "1"])
def test_file_that_is_not_python_is_told(tmp_path: Path, source: str | bytes) -> None:
    path = write(tmp_path, source)
    with pytest.raises(PluginError, match=r"Cannot read attention '.*mine\.py'"):
        plugins.facts("attention", path)
    with pytest.raises(PluginError, match=r"Cannot import attention '.*mine\.py': \w+") as error:
        plugins.load("attention", path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("source", "message"), [
    ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'."),
    ("from softbench.case import nothing", "ImportError: cannot import name 'nothing'"),
    ("raise SystemExit(3)", "SystemExit: 3."),
    ("raise SystemExit", "mine.py': SystemExit."),
    ("1 / 0", "ZeroDivisionError: division by zero."),
    ("raise ValueError('one\\ntwo')", "ValueError: one."),
    ("raise GeneratorExit", "mine.py': GeneratorExit."),
    ("class Mine(BaseException): pass\nraise Mine('odd')", "Mine: odd."),
    ("def f(): f()\nf()", "RecursionError: maximum recursion"),
])
def test_file_that_raises_is_told_and_forgotten(tmp_path: Path, source: str, message: str) -> None:
    path = write(tmp_path, source)
    with pytest.raises(PluginError) as error:
        plugins.load("attention", path)
    assert message in str(error.value)
    assert str(error.value).startswith("Cannot import attention '")
    write(tmp_path, SOURCE + "# repaired, and of another length, so that no cached bytecode is taken for it\n")
    assert plugins.load("attention", path).IMPLS == ("eager",)


def test_interrupt_during_an_import_is_an_interrupt(tmp_path: Path) -> None:
    pressed = write(tmp_path, "import os\nos.kill(os.getpid(), 2)")
    with pytest.raises(KeyboardInterrupt):
        plugins.load("attention", pressed)
    with pytest.raises(PluginError, match=r"^Cannot import .*': KeyboardInterrupt"):
        plugins.load("attention", write(tmp_path, "raise KeyboardInterrupt"))


def test_expected_errors_of_a_file_keep_their_words(tmp_path: Path) -> None:
    path = write(tmp_path, "from softbench.errors import UsageError\nraise UsageError('needs a licence')")
    with pytest.raises(UsageError, match=r"^needs a licence$"):
        plugins.load("attention", path)


def test_lacking_names_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path, SOURCE)
    with pytest.raises(PluginError, match=r"Attention '.*' lacks build, cost: see `softbench/attention/`"):
        plugins.load("attention", path, ("IMPLS", "build", "cost"))


@pytest.mark.parametrize("name", ["nowhere.py", "folder.py", "a" * 300 + ".py", "file/mine.py", ".py"])
def test_path_that_is_no_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "file").touch()
    for action in (plugins.load, plugins.facts):
        with pytest.raises(PluginError, match=r"No attention file '.*'. Give the path of a Python file"):
            action("attention", name)


def test_paths_are_for_attentions_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No measure named"):
        plugins.load("measures", write(tmp_path, SOURCE))


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    one, two = (write(tmp_path, f"X = {i}\n", f"{i}/mine.py") for i in (1, 2))
    assert (plugins.load("attention", one).X, plugins.load("attention", two).X) == (1, 2)
    assert plugins.display_name(one) == plugins.display_name(two) == "mine"


def test_file_is_imported_once_whatever_way_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "X = object()\n")
    monkeypatch.chdir(tmp_path)
    assert plugins.load("attention", path) is plugins.load("attention", "./mine.py")


def test_file_with_the_name_of_another_attention_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, SOURCE, "softmax.py")
    with pytest.raises(PluginError, match=r"has the name of another attention, 'softmax'.* Rename the file"):
        plugins.load("attention", path)
    own = str(ROOT / "softbench" / "attention" / "softmax.py")
    assert plugins.load("attention", own).APPROXIMATES is None


def test_dataclasses_work_in_a_file(tmp_path: Path) -> None:
    source = ("from __future__ import annotations\nfrom dataclasses import dataclass\n"
              "@dataclass(frozen=True)\nclass Options:\n    x: int = 1\n")
    assert plugins.load("attention", write(tmp_path, source)).Options(2).x == 2


def test_entry_point_is_listed_without_import_and_loaded_by_name(install: Callable[..., None]) -> None:
    install("foreign = third.foreign", **{"third.__init__": "raise RuntimeError('imported')", "third.foreign": SOURCE})
    assert plugins.names("attention")[-1] == "foreign"
    assert "foreign" not in plugins.names("measures")
    assert plugins.facts("attention", "foreign")["summary"] == "A plugin."
    with pytest.raises(PluginError, match="Cannot import attention 'foreign': RuntimeError: imported"):
        plugins.load("attention", "foreign")
    install("foreign = third.foreign", **{"third.__init__": "", "third.foreign": SOURCE})
    assert plugins.load("attention", "foreign", ("IMPLS",)).IMPLS == ("eager",)
    with pytest.raises(UsageError, match=r"No attention named 'foreigm'. Did you mean 'foreign'\?"):
        plugins.load("attention", "foreigm")


def test_entry_point_may_name_a_package(install: Callable[..., None]) -> None:
    install("whole = wholly", group="softbench.measures", **{"wholly.__init__": SOURCE})
    assert plugins.facts("measures", "whole")["IMPLS"] == ("eager",)
    assert plugins.load("measures", "whole").__name__ == "wholly"


@pytest.mark.parametrize("value", ["nowhere.to.be_found", "nowhere", "third.gone", "not valid !", "raising.far"])
def test_entry_point_that_leads_nowhere_is_told(install: Callable[..., None], value: str) -> None:
    install(f"far = {value}", **{"third.__init__": "", "raising.__init__": "raise RuntimeError"})
    with pytest.raises(PluginError, match=r"Entry point 'far' names '.*', which cannot be found"):
        plugins.facts("attention", "far")
    with pytest.raises(PluginError, match="Cannot import attention 'far'"):
        plugins.load("attention", "far")
    assert plugins.load("attention", "softmax")


def test_entry_point_to_an_object_is_refused(install: Callable[..., None]) -> None:
    install("far = third:thing", third="thing = 3\n")
    with pytest.raises(PluginError, match=r"Entry point 'far' of softbench\.attention must name a module, not a int"):
        plugins.load("attention", "far")


def test_entry_point_cannot_replace_a_built_in(install: Callable[..., None]) -> None:
    install("softmax = third", third="raise RuntimeError")
    assert plugins.names("attention").count("softmax") == 1
    assert plugins.load("attention", "softmax").__name__ == "softbench.attention.softmax"


def test_entry_point_of_an_editable_install_is_found(install: Callable[..., None], tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, SOURCE, "source/elsewhere.py")
    monkeypatch.syspath_prepend(tmp_path / "source")  # the distribution itself lies in another folder
    install("far = elsewhere")
    assert plugins.facts("attention", "far")["summary"] == "A plugin."


def test_listing_imports_no_plugin() -> None:
    code = ("import sys; from softbench import plugins\n"
            "for kind in ('attention', 'measures', 'studies'):\n"
            "    for name in plugins.names(kind): plugins.facts(kind, name)\n"
            "print(*(m for m in sys.modules if m.startswith(('torch', 'softbench.'))))")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                           env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert set(found.stdout.split()) == {"softbench._former", "softbench._version", "softbench.errors",
                                         "softbench.plugins", "softbench.plugins.contained"}


def test_all_errors_are_of_the_family() -> None:
    assert issubclass(PluginError, SoftbenchError)
    assert PluginError.exit_code == UsageError.exit_code == 2


def test_a_changed_file_is_imported_anew_even_within_a_second(tmp_path: Path) -> None:
    path = write(tmp_path, SOURCE + "VALUE = 1\n")
    stamp = os.stat(path)
    first = plugins.load("attention", path)
    assert plugins.load("attention", path) is first
    before = plugins.codes()
    write(tmp_path, SOURCE + "VALUE = 2\n")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (first.VALUE, plugins.load("attention", path).VALUE) == (1, 2)
    assert plugins.changed(before, plugins.codes(), "attention:mine")
    assert not plugins.changed(before, plugins.codes(), "attention:soft")
    assert plugins.changed(before, plugins.codes())
    for nonsense in ("", "no JSON", "[1]", "3", "[" * 100_000):
        assert plugins.changed(nonsense, before, "attention:mine")
        assert not plugins.changed(nonsense, before)
    assert not (tmp_path / "__pycache__").exists()


def test_a_file_imports_what_lies_beside_it_and_shadows_nothing(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("random", "profile"):
        write(tmp_path, "raise SystemExit('shadowed')", f"{name}.py")
    write(tmp_path, "import lower_neighbour", "neighbour_of_mine.py")
    write(tmp_path, "VALUE = 3", "lower_neighbour.py")
    module = plugins.load("attention", write(tmp_path, SOURCE + "import random, profile, neighbour_of_mine as n\n"))
    assert module.n.lower_neighbour.VALUE == 3
    before = plugins.codes()
    write(tmp_path, "VALUE = 4", "lower_neighbour.py")
    plugins.load("attention", str(tmp_path / "mine.py"))
    assert plugins.changed(before, plugins.codes(), "attention:mine")


def test_code_of_a_package_is_its_version_and_all_its_files(install: Callable[..., None], tmp_path: Path) -> None:
    def code() -> str:
        plugins._entry_points.cache_clear()
        plugins.load("attention", "third")
        return str(json.loads(plugins.codes())["attention:third"])

    install("third = pack.sub.attn", **{"pack.__init__": "", "pack.sub.__init__": "", "pack.sub.attn": SOURCE,
                                        "pack.helper": "X = 1"})
    first = code()
    assert first.startswith("1.0-")
    write(tmp_path, "X = 2", "pack/helper.py")
    second = code()
    metadata = next(tmp_path.glob("*.dist-info")) / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    assert len({first, second, code()}) == 3
