"""Files: what is no file is refused, other encodings are read, and no output takes the place of what is read."""

from __future__ import annotations

import codecs
import os
from pathlib import Path

import pytest

from softbench import files
from softbench.errors import UsageError


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/full", "/dev/null", "pipe", "folder", "link"])
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("link").symlink_to("/dev/zero")
    with pytest.raises(OSError, match=r"Not a regular file|Is a directory"):
        files.read(name)
    with pytest.raises(OSError, match=r"Not a regular file|Is a directory"), files.replacing(name):
        pass


@pytest.mark.parametrize(("mark", "coding"), [
    (b"", "utf-8"), (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
])
def test_text_is_read_whatever_its_mark_says_it_is_written_in(tmp_path: Path, mark: bytes, coding: str) -> None:
    (tmp_path / "x").write_bytes(mark + "a π 字\r\nb".encode(coding))
    assert files.read_text(tmp_path / "x").decode() == "a π 字\r\nb"


def test_a_file_is_replaced_whole_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def give_up() -> None:
        with files.replacing(path) as half:
            half.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        give_up()
    assert path.read_text() == "old"
    with files.replacing(path) as half:
        half.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["x"]


def test_a_link_stays_where_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    with files.replacing(tmp_path / "link") as half:
        half.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("name", ["x.svg", "./x.svg", "folder/../x.svg", "soft.svg", "hard.svg"])
def test_an_output_that_is_read_is_refused_by_any_of_its_names(tmp_path: Path, name: str,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.svg").write_text("records")
    Path("folder").mkdir()
    Path("soft.svg").symlink_to("x.svg")
    Path("hard.svg").hardlink_to("x.svg")
    with pytest.raises(UsageError, match=r"--out: .* is one of the files that this command reads. Choose another name"):
        files.keep_apart({"--out": [name]}, ["other", "x.svg"])
    files.keep_apart({"--out": ["X2.svg"]}, ["other", "x.svg"])


@pytest.mark.parametrize(("one", "other"), [("new.svg", "./new.svg"), ("new.svg", "NEW.svg"), ("link", "new.svg")])
def test_two_outputs_are_two_files(tmp_path: Path, one: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("new.svg")  # which does not exist yet
    with pytest.raises(UsageError, match=r"--plot: .* is also the file of --out"):
        files.keep_apart({"--out": [one], "--plot": ["a.svg", other]})
    files.keep_apart({"--out": ["new.svg"], "--plot": ["new.png"]})
