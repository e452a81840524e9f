"""The README is true: its commands parse, its plugin runs, its files exist."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from softbench.__main__ import main
from softbench.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)]
COMMANDS = [line.partition("#")[0].strip() for block in SHELL for line in block.splitlines()
            if line.startswith("softbench ")]


def plugin() -> str:
    return next(block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "def build" in block)


WITHOUT_DRY_RUN = ("list", "show", "plot", "env", "eval-imagenet", "compare", "export", "check", "doctor",
                   "baseline", "report", "info")


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] in WITHOUT_DRY_RUN])
def test_flags_of_the_others_exist(command):
    _, verb, *arguments = shlex.split(command)
    cli.get_command(None, verb).make_context(verb, arguments)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[1] not in WITHOUT_DRY_RUN])
def test_commands_can_be_run(command, tmp_path, monkeypatch, capsys):
    """All but the measuring itself: names, options, flags and sizes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(plugin())
    for example, here in (("--device cuda", "--device cpu"), ("--data /data/imagenet", "--data synthetic")):
        command = command.replace(example, here)
    arguments = [*shlex.split(command)[1:], "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["softbench", *arguments])
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code, capsys.readouterr().err


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 10
    assert {c.split()[1] for c in COMMANDS} <= set(cli.list_commands(None))


def test_the_plugin_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(plugin())
    with pytest.raises(SystemExit) as stop:
        main(["latency", "--attn", "./mine.py:scale=2", "--tokens", "16", "--rep", "2", "--device", "cpu"])
    assert not stop.value.code
    assert "mine:scale=2" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    for link in filter(None, links):
        assert (page.parent / link).exists(), link


def test_the_table_is_that_of_the_records(capsys):
    """The numbers in the README are those of the records beside it."""
    with pytest.raises(SystemExit):
        main(["show", str(ROOT / "results" / "latency-cpu.jsonl")])
    shown = [line for line in capsys.readouterr().out.splitlines() if re.match(r" *[\d,]+  \w", line)]
    assert len(shown) == 35
    for line in shown:
        assert line in README
