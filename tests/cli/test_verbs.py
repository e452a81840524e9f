"""One file, one verb: what is typed is what is opened, and nothing else lists the verbs."""

from __future__ import annotations

import ast
from pathlib import Path

import click
import pytest

from softbench import plugins
from softbench.cli import _verbs, cli

FILES = sorted(path.stem for path in Path(_verbs.__file__).parent.glob("*.py") if not path.stem.startswith("_"))
CONTEXT = click.Context(cli)


def test_verbs_are_the_files_the_measures_and_the_studies() -> None:
    studies = [name.replace("_", "-") for name in plugins.names("studies")]
    verbs = [stem.replace("_", "-") for stem in FILES]
    assert cli.list_commands(CONTEXT) == [*plugins.names("measures"), *studies, *verbs]
    assert {"list", "train-imagenet"} <= set(verbs)


@pytest.mark.parametrize("stem", FILES)
def test_file_holds_the_verb_of_its_name_alone(stem: str) -> None:
    tree = ast.parse((Path(_verbs.__file__).parent / f"{stem}.py").read_text())
    verbs = [ast.literal_eval(call.args[0]) for node in tree.body if isinstance(node, ast.FunctionDef)
             for call in node.decorator_list if isinstance(call, ast.Call)
             and ast.unparse(call.func) in ("click.command", "click.group")]
    assert verbs == [stem.replace("_", "-")]
    command = cli.get_command(CONTEXT, verbs[0])
    assert command is not None
    assert command.name == verbs[0]


def test_file_added_is_a_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sing_loud.py", "_quiet.py", "__init__.py", "words.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr(_verbs, "_FOLDER", tmp_path)
    assert _verbs._files.__wrapped__() == {"sing-loud": "sing_loud"}
