"""The page on the backbone is true: its code runs, and the numbers in its tables are those that are computed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import softbench.models as models
from softbench.__main__ import main
from softbench.models import checkpoints, paper
from softbench.models.cost import cost
from softbench.models.variants import VARIANTS

PAGE = (Path(__file__).parents[1] / "docs" / "backbone.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def rows(start: str) -> list[list[str]]:
    """The cells of the table lines that begin so."""
    lines = [line for line in PAGE.splitlines() if line.startswith(start)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def shaped(name: str, **options: Any) -> models.Pyramid:
    with torch.device("meta"):
        model = models.create(name, **options)
    assert isinstance(model, models.Pyramid)
    return model


def test_the_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks in order, as one program, in a folder with a checkpoint as the official code saves it."""
    torch.manual_seed(0)
    source = timm.create_model("soft_tiny", official=True)
    official = {f"module.{name}": tensor for name, tensor in checkpoints.to_official(source).items()}
    torch.save({"state_dict": official, "epoch": 300}, tmp_path / "SOFT_Tiny.pth")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert len(BLOCKS) == 6
    for block in BLOCKS:
        exec(compile(block, "docs/backbone.md", "exec"), names)
    back = torch.load("back.pth", weights_only=True)
    assert all(torch.equal(tensor, official[f"module.{name}"]) for name, tensor in back.items())
    with torch.no_grad():
        image = torch.randn(1, 3, 256, 192)
        resampled = timm.create_model("soft_tiny", img_size=(256, 192)).eval()
        checkpoints.load_official(resampled, "SOFT_Tiny.pth")
        assert torch.equal(names["larger"].eval()(image), resampled(image))


@pytest.mark.parametrize("command", re.findall(r"^softbench [^#\n]*", PAGE, re.M))
def test_the_commands_can_be_run(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*shlex.split(command.replace("--device cuda", "--device cpu"))[1:], "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["softbench", *arguments])
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)", PAGE))
def test_links_lead_somewhere(link: str) -> None:
    assert (Path(__file__).parents[1] / "docs" / link).exists()


def test_every_variant_is_in_the_table() -> None:
    assert [row[0].strip("`") for row in rows("| `soft-")] == [f"soft-{v.replace('_', '-')}" for v in VARIANTS]


@pytest.mark.parametrize("row", rows("| `soft-"), ids=lambda row: row[0].strip("`"))
def test_the_table_of_variants(row: list[str]) -> None:
    name, *written = row
    arch = name.strip("`")
    variant = VARIANTS[models.parse(arch)[1]]
    model, newton = shaped(arch), cost(shaped(arch, attn_options={"inverse": "newton", "iterations": 20}))
    printed = {number.quantity: number.printed for row in paper.TABLES["variants"] if row.arch == arch
               for number in row.numbers}
    assert written == [
        *(", ".join(map(str, numbers)) for numbers in (variant.dims, variant.heads, variant.depths)),
        f"{sum(p.numel() for p in model.parameters()):,}", f"{newton.published / 2e9:.3f}",
        f"{cost(model).flops / 2e9:.3f}", f"{newton.flops / 2e9:.3f}",
        f"{printed['parameters']}, {printed['flops']}" if printed else ""]


def test_the_table_of_image_sizes() -> None:
    for row, official in zip(rows("| `soft_tiny`"), (False, True), strict=True):
        model = shaped("soft-tiny", official=official)
        small, large = (cost(model, side).flops / 2e9 for side in (224, 768))
        assert row[1:] == [f"{small:.2f} GMAC", f"{large:.3g} GMAC", f"{large / small:.3g}" if official else
                           f"{large / small:.1f}"]
    assert round((768 / 224) ** 2, 1) == 11.8


def test_the_settings_that_the_page_names_exist() -> None:
    """What the page says of the models, as far as it is not tested elsewhere."""
    blocks = [model.stages[i].blocks[0] for model in [shaped("soft-tiny")] for i in range(3)]
    assert [block.attn.core.conv.filters.kernel_size for block in blocks] == [(9, 9), (5, 5), (3, 3)]
    assert blocks[0].attn.k is None
    assert timm.list_pretrained("soft_*") == []
    official = shaped("soft-norm-tiny", official=True).stages[0].blocks[0].attn.attention.options
    assert (official.inverse, official.sampling) == ("newton_batch", "conv_ratio")
    assert shaped("soft-tiny").stages[0].blocks[0].attn.attention.options.inverse == "cholesky"
