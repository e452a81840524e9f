"""The README and the pages are true: commands parse, the plugin runs, links lead somewhere, tables are the code's."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from softbench import errors, plugins
from softbench.__main__ import INTERRUPTED, main
from softbench.cli import cli
from softbench.compare import verdicts
from softbench.processes import stopping

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "results" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = [block for page in PAGES for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.S)]
COMMANDS = [line.partition("#")[0].strip() for block in SHELL for line in block.splitlines()
            if line.startswith("softbench ")]


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


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


def test_every_command_is_shown_and_no_other():
    assert {c.split()[1] for c in COMMANDS} == set(cli.list_commands(None))
    for contents, pattern in ((README, r"`softbench ([a-z-]+)[^`]*`"), (page("README"), r"`([a-z-]+)`")):
        rows = [line for line in contents.splitlines() if line.startswith("|")]
        assert set(cli.list_commands(None)) <= {name for row in rows for name in re.findall(pattern, row)}


def test_every_page_is_in_the_table_of_contents():
    linked = set(re.findall(r"\]\(([a-z-]+\.md)\)", page("README")))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_the_readme_is_of_one_sitting():
    assert README.count("\n") <= 165
    assert "make bench" in README[:1500]
    assert "make test" in README[:1500]


def test_the_plugin_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(plugin())
    with pytest.raises(SystemExit) as stop:
        main(["latency", "--attn", "./mine.py:scale=2", "--tokens", "16", "--rep", "2", "--device", "cpu"])
    assert not stop.value.code
    assert "mine:scale=2" in capsys.readouterr().out


def anchors(text: str) -> set[str]:
    """What headings are called in links, by GitHub's rule."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_a_page_names_are_there(path):
    """But those that a run or a reader writes."""
    named = set(re.findall(r"`((?:softbench|tests|results|docs|\.github)/[\w/.*-]+)`", path.read_text()))
    written = ("results/local/", "results/train/", "results/doctor/", "results/baseline/")
    kept = {name for name in named if not name.startswith(written) and "NAME" not in name}
    assert {name for name in kept if not [*ROOT.glob(name)]} == set()


def test_headings_are_named_as_github_does():
    assert anchors("# `softbench fit`\n## Does it? It's\n```\n# no heading\n```\n") == {"softbench-fit", "does-it-its"}


def test_the_table_is_that_of_the_records(capsys):
    """The numbers on the page and in the README are those of the records beside them."""
    with pytest.raises(SystemExit):
        main(["show", str(ROOT / "results" / "latency-cpu.jsonl")])
    rows = re.compile(r" *[\d,]+  \w.*")
    shown = [line for line in capsys.readouterr().out.splitlines() if rows.fullmatch(line)]
    assert len(shown) == 35
    assert [line for line in page("latency").splitlines() if rows.fullmatch(line)] == shown
    some = [line for line in README.splitlines() if rows.fullmatch(line)]
    assert len(some) == 4
    assert set(some) < set(shown)


def cells(text: str, header: str) -> list[list[str]]:
    """The rows below a table's header."""
    lines = iter(text.splitlines())
    assert any(line == header for line in lines), header
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_the_readme_lists_every_attention_in_its_family():
    written = {name: family for family, names in cells(README, "| family | names |")
               for name in re.findall(r"`(\w+)`", names)}
    assert written == {name: plugins.facts("attention", name)["FAMILY"] for name in plugins.names("attention")}
    assert f"It has {len(written)} attentions" in README


def test_the_page_of_attentions_says_what_each_estimates():
    written = {name: estimates for names, _, estimates in cells(page("attentions"), "| name | what it is | estimates |")
               for name in re.findall(r"`(\w+)`", names)}
    facts = {name: plugins.facts("attention", name) for name in plugins.names("attention")}
    assert written == {name: f"`{fact['APPROXIMATES']}`" if fact["APPROXIMATES"] else
                       "exact" if fact["FAMILY"] == "exact" else "its own" for name, fact in facts.items()}


def test_every_exit_code_is_in_the_one_table():
    def below(kind):
        return {kind, *(inner for child in kind.__subclasses__() for inner in below(child))}

    kinds = (*below(errors.SoftbenchError), *vars(stopping).values())
    codes = {code for kind in kinds if isinstance(code := getattr(kind, "exit_code", None), int)}
    codes |= {INTERRUPTED, verdicts.FINE, verdicts.ERROR, verdicts.REGRESSED, verdicts.UNDECIDED, verdicts.SOME_FAILED}
    rows = cells(page("running"), "| exit code | meaning |")
    assert {int(code) for row in rows for code in row[0].split(",")} == codes
    told = CliRunner().invoke(cli, ["--help"]).output.partition("Exit codes:")[2].partition(".")[0]
    assert {int(code) for code in re.findall(r"\d+", told)} <= codes
    others = [path.name for path in PAGES if re.search(r"^\| (exit )?code \|", path.read_text(), re.M)]
    assert others == ["running.md"]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_help_lists_every_target_and_pages_name_no_other():
    printed = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True,
                             check=True)
    listed = {line.split()[0] for line in printed.stdout.splitlines() if len(line.split()) > 1}
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert listed == set(phony.split())
    code = [*SHELL, *(code for path in PAGES for code in re.findall(r"`(make [^`]+)`", path.read_text()))]
    named = {name for block in code for name in re.findall(r"^make ([a-z-]+)", block, re.M)}
    assert {"bench", "test"} <= named <= set(phony.split())
