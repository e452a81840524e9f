"""Plugins speak for themselves: no other file of the package names one, but for a few that say why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import softbench
from softbench import plugins

PACKAGE = Path(softbench.__file__).parent
KINDS = ("attention", "measures", "studies")
# File or folder -> the names that it may hold, and why.
ALLOWED = {
    "bench/session.py": ({"softmax"}, "the baseline of [sweep] where none is named"),
    "reports/sheet.py": ({"softmax"}, "the same baseline in tables"),
    "bench/costs.py": ({"latency", "memory"}, "it is made of these two measures"),
    "bench/sweep.py": ({"flops"}, "a key of a record's detail"),
    "gate": ({"latency", "flops"}, "the gate times with softbench's own measure, in versions before the plugins spoke"),
    "machine": ({"flops", "memory"}, "keys of ceilings and files of the system"),
    "models/paper.py": ({"soft", "soft-norm", "softmax", "linformer", "performer", "nystromformer", "flops", "memory"},
                        "the tables of a paper"),
    "models/pyramid.py": ({"soft", "window"}, "the default of the model, and an option"),
    "ops": ({"nystromformer", "flops"}, "the name of a method, and of a public function"),
    "reports/figures/roofline.py": ({"flops"}, "a key of a record's detail"),
    "reports/page/__init__.py": ({"memory"}, "the end of entries of an environment"),
}


ALSO_A_NUMBER = {"accuracy"}  # a study, and the score of tasks to learn, which many files name


def names() -> set[str]:
    found = {name for kind in KINDS for name in plugins.names(kind) if plugins.ships(kind, name)} - ALSO_A_NUMBER
    return found | {name.replace("_", "-") for name in found}


def named(source: str) -> Iterator[str]:
    """The names of plugins among the texts of a file; docstrings and longer texts are prose."""
    known = names()
    yield from (node.value for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known)


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in KINDS]


def allowed(path: Path) -> set[str]:
    place = path.relative_to(PACKAGE).as_posix()
    return {name for start, (found, _) in ALLOWED.items() if place == start or place.startswith(f"{start}/")
            for name in found}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_names_a_plugin(path: Path) -> None:
    assert set(named(path.read_text())) <= allowed(path)


def test_what_is_allowed_is_there() -> None:
    for start, (found, _) in ALLOWED.items():
        here = {name for path in FILES if path.relative_to(PACKAGE).as_posix().startswith(start)
                for name in named(path.read_text())}
        assert found <= here, f"{start} no longer names {found - here}"


def test_names_are_seen() -> None:
    assert set(named('x = {"latency": 1}\nif y in ("approx-error", "soft, performer"): pass')) == {
        "latency", "approx-error"}


# Studies that name attentions, and why. All may name measures, which they are built on.
ATTENTIONS = {
    "studies/approx_error": "the two exact attentions, and what it compares by default",
    "studies/crossover": "the default baseline", "studies/pinv": "the name of a method of the inverse",
    "studies/scaling": "the name of a class of growth",
    "studies/accuracy": "the attention of its quick run",
    "studies/reproduce": "the published table of Long Range Arena",
}


def test_measures_and_studies_name_no_attention_and_no_study_of_others() -> None:
    attentions, studies = (set(plugins.names(kind)) for kind in ("attention", "studies"))
    for kind in ("measures", "studies"):
        for path in sorted((PACKAGE / kind).rglob("*.py")):
            place = path.relative_to(PACKAGE)
            own = "/".join(place.with_suffix("").parts[:2])
            words = {word.replace("-", "_") for word in named(path.read_text())}
            assert not words & attentions or own in ATTENTIONS, place
            assert (words & studies) <= {own.partition("/")[2]} | {"roofline"}, place  # which is a view of latency too
