"""Inputs: seeded, the same everywhere, and, for photographs, with the structure that photographs have."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from softbench import inputs
from softbench.case import Shape
from softbench.errors import UsageError

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("sklearn")

SHAPE = Shape(2, 3, 6, 8, 16)


def save(path: Path, height: int = 40, width: int = 60, mode: str = "RGB", seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1])


@pytest.mark.parametrize("family", ["normal", "image"])
def test_inputs_follow_the_seed_and_nothing_else(family: str) -> None:
    first = inputs.tokens(family, SHAPE, seed=0)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = inputs.tokens(family, SHAPE, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    other = inputs.tokens(family, SHAPE, seed=1)
    for a, b, c in zip(first, again, other, strict=True):
        assert a.shape == (2, 3, 48, 16)
        assert (a.dtype, a.device.type) == (torch.float32, "cpu")
        assert a.is_contiguous()
        assert torch.equal(a, b)
        assert abs(correlation(a, c)) < 0.2


def test_default_dtype_does_not_change_inputs() -> None:
    usual = inputs.tokens("normal", SHAPE, 0)
    torch.set_default_dtype(torch.float64)
    try:
        changed = inputs.tokens("normal", SHAPE, 0)
        photographs = inputs.tokens("image", SHAPE, 0)
    finally:
        torch.set_default_dtype(torch.float32)
    for a, b, c in zip(usual, changed, photographs, strict=True):
        assert torch.equal(a, b)
        assert c.dtype == torch.float32


def test_normal_inputs_are_independent_and_standard() -> None:
    q, k, v = inputs.tokens("normal", Shape(2, 4, 16, 16, 32), 0)
    for one, other in ((q, k), (q, v), (k, v)):
        assert abs(correlation(one, other)) < 0.02
    for x in (q, k, v):
        assert float(x.mean()) == pytest.approx(0, abs=0.02)
        assert float(x.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("rows", "cols"), [(1, 7), (7, 9), (64, 64), (1, 1), (97, 1), (1, 4096)])
def test_photographs_fit_any_grid(rows: int, cols: int) -> None:
    for x in inputs.tokens("image", Shape(1, 2, rows, cols, 4), 0):
        assert x.shape == (1, 2, rows * cols, 4)
        assert torch.isfinite(x).all()
        assert float(x.std()) > 0.3


def test_seeds_vary_the_crop_and_not_the_network(tmp_path: Path) -> None:
    """A picture of one pixel is the same in every crop: what is left are the weights."""
    Image.new("RGB", (1, 1), (200, 30, 90)).save(tmp_path / "dot.png")
    dots = [inputs.tokens(f"image:{tmp_path / 'dot.png'}", SHAPE, seed) for seed in (0, 1, 1_000_000)]
    for dot in dots[1:]:
        assert all(torch.equal(a, b) for a, b in zip(dot, dots[0], strict=True))
    assert not torch.equal(*(inputs.tokens("image", SHAPE, seed)[0] for seed in (0, 2)))  # crops of one photograph


def test_crops_are_of_many_sizes(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 256, dtype=np.uint8)[None, :, None].repeat(256, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    found = inputs.crops(str(tmp_path / "ramp.png"), 40, (16, 16), 0)
    assert found.shape == (40, 3, 16, 16)
    width = (found[:, 0, 0, -1] - found[:, 0, 0, 0]) * 16 / 15  # of the whole picture
    assert 0.45 < float(width.min()) < 0.6
    assert 0.9 < float(width.max()) < 1.05


def test_more_samples_than_photographs_are_all_different() -> None:
    q, _, _ = inputs.tokens("image", Shape(5, 1, 6, 6, 8), 0)
    for i in range(5):
        for j in range(i):
            assert not torch.allclose(q[i], q[j], atol=1e-3)


def test_neighbours_in_a_photograph_are_alike_and_distant_tokens_less_so() -> None:
    for x in inputs.tokens("image", Shape(2, 2, 24, 24, 32), 0):
        grid = torch.nn.functional.normalize(x, dim=-1).unflatten(2, (24, 24))  # [B, H, 24, 24, D]

        def alike(rows: int, cols: int, grid: Tensor = grid) -> float:
            return float((grid[:, :, : 24 - rows, : 24 - cols] * grid[:, :, rows:, cols:]).sum(-1).mean())

        assert min(alike(0, 1), alike(1, 0)) > alike(0, 12) + 0.1
        assert min(alike(0, 1), alike(1, 0)) > alike(12, 0) + 0.1
    noise = torch.nn.functional.normalize(inputs.tokens("normal", Shape(2, 2, 24, 24, 32), 0)[0], dim=-1)
    assert abs(float((noise[:, :, 1:] * noise[:, :, :-1]).sum(-1).mean())) < 0.05


def test_rows_and_columns_are_not_exchanged(tmp_path: Path) -> None:
    striped = np.zeros((64, 64, 3), dtype=np.uint8)
    striped[::8], striped[1::8], striped[2::8], striped[3::8] = 255, 255, 255, 255  # tokens of a row are alike
    Image.fromarray(striped).save(tmp_path / "x.png")
    q, _, _ = inputs.tokens(f"image:{tmp_path / 'x.png'}", Shape(1, 1, 12, 16, 8), 0)
    grid = q[0, 0].unflatten(0, (12, 16))
    assert torch.allclose(grid, grid[:, :1].expand_as(grid), atol=1e-4)
    assert not torch.allclose(grid[0], grid[1], atol=0.1)


def test_own_photographs_of_every_mode_and_a_folder_of_them(tmp_path: Path) -> None:
    for index, mode in enumerate(("RGB", "L", "RGBA", "P", "CMYK", "1")):
        suffix = "jpg" if mode == "CMYK" else "png"
        path = save(tmp_path / f"{index}.{suffix}", mode=mode, seed=index)
        assert torch.isfinite(inputs.tokens(f"image:{path}", Shape(1, 1, 3, 5, 4), 0)[0]).all()
    (tmp_path / "notes.txt").write_text("no photograph")
    save(tmp_path / "9.PNG", height=1, width=1)
    assert len(inputs._photographs(str(tmp_path))) == 7
    assert torch.isfinite(inputs.tokens(f"image:{tmp_path}", Shape(8, 1, 3, 5, 4), 0)[0]).all()


def test_photographs_take_turns(tmp_path: Path) -> None:
    for name, grey in (("a.png", 0), ("b.png", 255)):
        Image.new("RGB", (20, 20), (grey, grey, grey)).save(tmp_path / name)
    dark, bright, again = inputs.tokens(f"image:{tmp_path}", Shape(3, 1, 2, 2, 8), 0)[0]
    assert torch.allclose(dark, again, atol=1e-5)
    assert not torch.allclose(dark, bright, atol=0.1)


def test_photograph_with_a_colon_in_its_path(tmp_path: Path) -> None:
    assert inputs.tokens(f"image:{save(tmp_path / 'a:b.png')}", SHAPE, 0)[0].shape == (2, 3, 48, 16)


@pytest.mark.parametrize(("family", "message"), [
    ("imag", r"No inputs named 'imag'. Did you mean 'image'\?"), ("", "No inputs named ''. Valid: clustered, "),
    ("normal:3", "--inputs normal takes nothing after a colon, not '3'"), ("Image", "No inputs named"),
    ("image:", "no path after the colon"),
    ("image:nowhere.png", "cannot read 'nowhere.png': No such file or directory"),
    ("image:" + "a" * 300, "File name too long"), ("image:file/x.png", "Not a directory"),
    ("image:empty", r"no photographs in 'empty', of all"), ("image:folder", "folder.png'"),
    ("image:text.png", "'text.png' is not a picture"), ("image:zero.png", "'zero.png' is not a picture"),
    ("image:torn.png", "cannot read 'torn.png': image file is truncated"), ("image:torn.jpg", "cannot read 'torn.jpg'"),
    ("image:bomb.bmp", "cannot read 'bomb.bmp'"), ("image:pipe.png", "'pipe.png' is no file"),
])
def test_bad_families_and_paths_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str,
                                                     message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder" / "folder.png").mkdir(parents=True)
    Path("file").touch()
    Path("text.png").write_text("this is not a picture")
    Path("zero.png").touch()
    os.mkfifo("pipe.png")
    for name in ("torn.png", "torn.jpg"):
        whole = save(Path(name)).read_bytes()
        Path(name).write_bytes(whole[: len(whole) // 2])
    huge = bytearray(save(Path("bomb.bmp")).read_bytes())
    huge[18:26] = (60000).to_bytes(4, "little") * 2  # width and height in the header
    Path("bomb.bmp").write_bytes(huge)
    for action in (inputs.check, lambda f: inputs.tokens(f, SHAPE, 0)):
        with pytest.raises(UsageError, match=message) as error:
            action(family)
        assert "\n" not in str(error.value)


def test_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UsageError, match="Permission denied"):
        inputs.check(f"image:{tmp_path}")


@pytest.mark.parametrize(("missing", "family"), [
    ("sklearn.datasets", "image"), ("PIL", "image"), ("PIL", f"image:{os.devnull}")])
def test_missing_packages_are_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str,
                                                        family: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UsageError, match=r"pip install 'softbench\[images\]'"):
        inputs.check(family)


def test_normal_needs_neither_package(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sklearn", "sklearn.datasets", "PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, name, None)
    inputs.check("normal")
    assert inputs.tokens("normal", SHAPE, 0)[0].shape == (2, 3, 48, 16)
