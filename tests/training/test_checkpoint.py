"""Checkpoints: whole or not there, three kept and the best, and a damaged one is passed over."""

from __future__ import annotations

import multiprocessing
import os
import resource
import stat
from pathlib import Path

import pytest
import torch

from softbench.errors import ResultsError
from softbench.training import checkpoint


def state(number: int) -> dict:
    return {"state_dict": {"w": torch.full((1000,), float(number))}, "position": {"updates": number}}


def save(folder: Path, *steps: int, best: int = -1) -> None:
    for step in steps:
        checkpoint.save(folder, state(step), step, best=step == best)


def newest(folder: Path) -> tuple[int | None, list[str]]:
    said: list[str] = []
    found = checkpoint.newest(folder, said.append)
    return (found[0]["position"]["updates"] if found else None), said


def test_three_and_the_best_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4, 5, 6, best=2)
    assert [path.name[:13] for path in sorted(tmp_path.iterdir())] == [
        "best.pt", "step-00000004", "step-00000005", "step-00000006"]
    assert torch.load(tmp_path / "best.pt", weights_only=True)["position"]["updates"] == 2
    assert newest(tmp_path) == (6, [])
    assert newest(tmp_path / "none") == (None, [])


def test_the_bytes_are_on_the_disk_before_they_have_their_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        done.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        fsync(handle)

    def renamed(one, other):
        done.append(f"rename to {Path(other).suffix}")
        replace(one, other)

    monkeypatch.setattr(checkpoint.os, "fsync", synced)
    monkeypatch.setattr(checkpoint.os, "replace", renamed)
    save(tmp_path, 1)
    assert done == ["sync file", "rename to .pt", "sync folder"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "unreadable"])
def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path, damage):
    save(tmp_path, 1, 2)
    path = next(tmp_path.glob("step-00000002*"))
    whole = path.read_bytes()
    middle = len(whole) // 2
    if damage == "unreadable":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes({"cut": whole[:middle], "empty": b"",
                          "flip": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]}[damage])
    step, said = newest(tmp_path)
    assert step == 1
    assert len(said) == 1
    assert "torn or damaged" in said[0]


def test_nothing_whole_is_an_error_and_not_a_new_start(tmp_path):
    save(tmp_path, 1)
    next(tmp_path.glob("step-*")).write_bytes(b"x")
    with pytest.raises(ResultsError, match=r"No checkpoint in .* is whole"):
        newest(tmp_path)


def test_what_a_killed_writer_left_is_cleared_away(tmp_path):
    (tmp_path / "step-00000009.unfinished").write_bytes(b"half")
    assert newest(tmp_path) == (None, [])
    save(tmp_path, 10)
    assert not list(tmp_path.glob("*unfinished"))


def _full_disk(folder: Path, answer) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # writing beyond it fails as on a full disk
    try:
        checkpoint.save(folder, state(2), 2)
    except ResultsError as error:
        answer.send(str(error))


def test_a_full_disk_leaves_the_old_ones_whole(tmp_path):
    save(tmp_path, 1)
    ours, theirs = multiprocessing.get_context("forkserver").Pipe(duplex=False)
    child = multiprocessing.get_context("forkserver").Process(target=_full_disk, args=(tmp_path, theirs))
    child.start()
    assert ours.poll(60)
    said = ours.recv()
    child.join()
    assert "File too large; the older ones are whole. Free space, then start the same command again" in said
    assert newest(tmp_path) == (1, [])
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_that_is_not_the_disks_is_not_hidden(tmp_path, monkeypatch):
    def broken(*args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        save(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_where_links_do_not_exist_the_best_is_a_copy(tmp_path, monkeypatch):
    def no_links(*args):
        raise OSError("no links here")

    monkeypatch.setattr(checkpoint.os, "link", no_links)
    save(tmp_path, 1, best=1)
    assert (tmp_path / "best.pt").read_bytes() == next(tmp_path.glob("step-*")).read_bytes()
