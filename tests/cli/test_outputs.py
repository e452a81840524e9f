"""Files that commands write: never over what they read, never twice, and records only where records may be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from softbench import records

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]
STORED = (ROOT / "results" / "latency-cpu.jsonl").read_bytes()
CASE = ("flops", "--attn", "soft", "--tokens", "64")


@pytest.fixture
def stored() -> bytes:
    """Records in files of the working directory that are named as pictures and pages are, one by two more names."""
    for name in ("x.svg", "x.html", "x.jsonl", "x-ratios.svg"):
        Path(name).write_bytes(STORED)
    Path("soft.svg").symlink_to("x.svg")
    Path("hard.svg").hardlink_to("x.svg")
    return STORED


@pytest.mark.parametrize("arguments", [
    ("export", "x.jsonl", "--format", "junit", "--out", "./x.jsonl"),
    ("export", "x.*", "--format", "junit", "--out", "x.svg"),
    ("plot", "x.svg", "--out", "x.svg"), ("plot", "x.svg", "--out", "hard.svg"), ("plot", "soft.svg", "--out", "x.svg"),
    ("compare", "x.svg@softmax", "@soft", "--plot", "x.svg"),
    ("compare", "x.jsonl", "x.svg", "--plot", "soft.svg"),
    ("report", "x.jsonl", "x.html", "--out", "x.html"),
    (*CASE, "--out", "new.svg", "--plot", "./new.svg"), (*CASE, "--out", "x.svg", "--plot", "hard.svg"),
    (*CASE, "--config", "x.svg", "--out", "new.jsonl", "--plot", "x.svg"),
    ("pinv", "--out", "x-orders.svg", "--plot", "x.svg"),
    ("reproduce", "--trained", "x*.svg", "--plot", "x.svg", "--view", "variants"),
])
def test_an_output_over_an_input_is_refused_before_anything_is_done(run: Run, stored: bytes,
                                                                    arguments: tuple[str, ...],
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    if arguments[0] in ("pinv", "reproduce"):
        from softbench.cli import _presenting

        monkeypatch.setattr(_presenting, "targets", lambda path, *_: [path, path.with_stem(f"{path.stem}-orders")])
        arguments = tuple(a for a in arguments if a not in ("--view", "variants"))
    before = sorted(os.listdir())
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Choose another name." in err
    assert sorted(os.listdir()) == before
    assert Path("x.svg").read_bytes() == Path("x.jsonl").read_bytes() == Path("x.html").read_bytes() == stored


def test_each_picture_of_a_study_has_a_name_that_is_kept_apart(run: Run) -> None:
    stored = (ROOT / "results" / "field-crossover.jsonl").read_bytes()
    Path("x.svg").write_bytes(stored)
    assert run("plot", "x.svg", "--out", "y.svg")[0] == 0
    drawn = sorted(path.name for path in Path().glob("y-*.svg"))
    assert drawn
    Path("x.svg").rename(drawn[0])
    code, _, err = run("plot", drawn[0], "--out", "y.svg")
    assert code == 2
    assert f"--out: {drawn[0]} is one of the files that this command reads" in err
    assert Path(drawn[0]).read_bytes() == stored


@pytest.mark.parametrize("content", [
    b"def build(): ...\n", b"root:x:0:0\n", b"{}\n", b'{"measure": "mine"}\n', b"\0\1"])
def test_records_are_not_appended_to_other_files(run: Run, content: bytes) -> None:
    Path("text").write_bytes(content)
    code, out, err = run(*CASE, "--out", "text")
    assert (code, out) == (1, "")
    assert "text holds no softbench records, and would be spoilt by some: choose another file with --out." in err
    assert Path("text").read_bytes() == content


@pytest.mark.parametrize("name", ["folder", "pipe", "/dev/full", "/dev/null", "link"])
def test_records_are_not_appended_to_what_is_no_file(run: Run, name: str) -> None:
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("link").symlink_to("/dev/zero")
    code, out, err = run(*CASE, "--out", name)
    assert (code, out) == (1, "")
    assert f"Cannot write {name}" in err
    assert "[1/" not in err  # nothing was measured


def test_export_does_not_take_the_place_of_a_device(run: Run) -> None:
    Path("x.jsonl").write_bytes(STORED)
    Path("null").symlink_to("/dev/null")
    assert run("export", "x.jsonl", "--format", "junit", "--out", "null")[0] == 1
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("content", [b"", b"\n", b'{"measure": "flo', STORED[:3000].rpartition(b"\n")[2] or b"{"])
def test_a_file_without_a_whole_record_is_a_start_to_resume_from(run: Run, content: bytes) -> None:
    Path("x.jsonl").write_bytes(content)
    code, _, err = run(*CASE, "--out", "x.jsonl", "--resume")
    assert code == 0
    assert "Nothing to resume: x.jsonl holds no whole record yet." in err
    assert {record.attention for record in records.read("x.jsonl")[0]} == {"softmax", "soft"}


def test_a_file_of_something_else_is_no_start(run: Run) -> None:
    Path("x.jsonl").write_text("some text\n")
    code, _, err = run(*CASE, "--out", "x.jsonl", "--resume")
    assert code == 1
    assert "x.jsonl holds no softbench records" in err
    assert Path("x.jsonl").read_text() == "some text\n"


def test_records_in_another_encoding_are_read_but_not_added_to(run: Run) -> None:
    Path("x.jsonl").write_bytes(STORED.decode().replace("\n", "\r\n").encode("utf-16"))
    code, out, err = run("show", "x.jsonl")
    assert (code, err) == (0, "")
    Path("plain.jsonl").write_bytes(STORED)
    assert out == run("show", "plain.jsonl")[1]
    code, _, err = run(*CASE, "--out", "x.jsonl")
    assert code == 1
    assert "x.jsonl is written in UTF-16, and records are UTF-8: choose another file with --out." in err


@pytest.mark.parametrize("arguments", [
    ("show",), ("plot", "--out", "p.svg"), ("report", "--out", "p.html"), ("export", "--format", "junit")])
@pytest.mark.parametrize("name", ["/dev/zero", "pipe", "folder"])
def test_devices_and_pipes_are_not_read(run: Run, arguments: tuple[str, ...], name: str) -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    code, out, err = run(arguments[0], name, *arguments[1:])
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: Cannot read {name}: ")


@pytest.mark.parametrize(("arguments", "said"), [
    ((*CASE, "--config", "/dev/zero"), "Cannot read /dev/zero: Not a regular file"),
    (("reproduce", "--trained", "/dev/zero", "--tables", "variants"), "Cannot read /dev/zero"),
    (("latency", "--attn", "soft", "--inputs", "image:/dev/zero"), "'/dev/zero' is no file"),
    (("compare", "/dev/zero", "/dev/zero"), "Cannot read /dev/zero"),
    (("eval-imagenet", "--checkpoint", "/dev/zero", "--data", "digits"), "Cannot read /dev/zero: Not a regular file"),
    (("train-imagenet", "--data", "folder", "--class-map", "/dev/zero"), "cannot read '/dev/zero': Not a regular file"),
])
def test_devices_are_not_read_by_any_flag(run: Run, arguments: tuple[str, ...], said: str) -> None:
    for place in ("train/cat", "train/dog", "val/cat", "val/dog"):
        (Path("folder") / place).mkdir(parents=True)
        (Path("folder") / place / "picture.png").touch()
    code, _, err = run(*arguments)
    assert code in (1, 2)
    assert said in err
