"""The page on training is true: its commands parse, its links lead somewhere, what it names is there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from softbench.__main__ import main
from softbench.cli import cli

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text()
COMMANDS = [line.partition("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
            for line in block.splitlines()]


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.search("train(-imagenet)? --", c)])
def test_commands_can_be_run(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    # A dry run looks at the data, at the workers that there is room for, and at how many processes it is one of.
    here = re.sub(r"--data (?!digits|synthetic)\S+", "--data synthetic", command)
    here = here.replace("--workers 8", "--workers 1").replace(" --fsdp", "")
    here = here.replace("./mine.py", str(ROOT / "softbench" / "attention" / "softmax.py"))
    arguments = shlex.split(here[re.search("train(-imagenet)? --", here).start():])
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--dry-run", "--device", "cpu"])
    assert not stop.value.code, capsys.readouterr().err


def test_flags_and_files_that_it_names_exist():
    flags = {name for verb in ("train", "train-imagenet", "eval-imagenet", "show", "plot")
             for option in cli.get_command(None, verb).params for name in option.opts}
    torchrun = {"--nproc-per-node", "--max-restarts"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) - torchrun <= flags | {"--out"}
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


def test_evaluation_commands_are_there_too():
    assert sum("eval-imagenet" in command for command in COMMANDS) == 3


def test_the_cluster_script_is_a_script():
    done = subprocess.run(["bash", "-n", str(ROOT / "docs" / "train-imagenet.slurm")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    text = (ROOT / "docs" / "train-imagenet.slurm").read_text()
    assert "train-imagenet" in text
