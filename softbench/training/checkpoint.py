"""Checkpoints: written beside, synced and renamed, named by their bytes' digest; the last three and the best stay.

A file holds tensors and plain values alone, is loaded with `weights_only=True`, and has its weights under `state_dict`
and `state_dict_ema`, where timm and `softbench.models.checkpoints` look for them. torch notices a file that was cut off
but not a byte that changed; the digest in the name `step-00001250-3f9a0c1b2d4e5f60.pt` notices both.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from softbench.errors import ResultsError
from softbench.models import checkpoints
from softbench.records import FULL

KEPT = 3
BEST = "best.pt"
_NAME = re.compile(r"step-(\d+)-([0-9a-f]{16})\.pt")
_UNFINISHED = ".unfinished"


class _Hashed:
    """A file that is only ever written forwards, with the digest of what was written and why it could not be."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.error = file, hashlib.sha256(), None

    error: OSError | None

    def write(self, data: Any) -> int:
        try:
            self.file.write(data)
        except OSError as error:  # torch forgets it
            self.error = error
            raise
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def save(folder: Path, state: Mapping[str, Any], step: int, *, best: bool = False) -> Path:
    """Write a checkpoint, then delete those that are no longer kept. `best`: it becomes best.pt, too.

    Raises:
        ResultsError: it cannot be written; the older ones are whole.
    """
    unfinished = folder / f"step-{step:08d}{_UNFINISHED}"
    hashed = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            hashed = _Hashed(file)
            torch.save(dict(state), hashed)  # type: ignore[arg-type]  # all that torch needs of a file
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"step-{step:08d}-{hashed.digest.hexdigest()[:16]}.pt"
        if best:  # first: whoever finds the checkpoint whole finds the best one, too
            _link(unfinished, folder / BEST)
        os.replace(unfinished, path)
        _sync(folder)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else hashed.error if hashed else None
        with suppress(OSError):
            unfinished.unlink()
        if cause is None:
            raise
        advice = "Free space, then start" if cause.errno in FULL else "Start"
        raise ResultsError(f"Cannot write a checkpoint into {folder}: {cause.strerror}; the older ones are whole."
                           f" {advice} the same command again to go on from the last one.") from error
    _retire(folder)
    return path


def newest(folder: Path, say: Callable[[str], None]) -> tuple[dict[str, Any], Path] | None:
    """The newest whole checkpoint and its path; None where there is none. Torn ones are named and passed over.

    Raises:
        ResultsError: there are checkpoints, and none of them is whole.
    """
    paths = _all(folder)
    for path in reversed(paths):
        state = _whole(path)
        if state is not None:
            return state, path
        say(f"Warning: {path} is torn or damaged; taking the checkpoint before it.")
    if paths:
        raise ResultsError(f"No checkpoint in {folder} is whole. Start anew with another --out.")
    return None


def _whole(path: Path) -> dict[str, Any] | None:
    """The state in a file; None where its bytes are not those that were written."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        matched = _NAME.fullmatch(path.name)
        if matched is None or digest[:16] != matched[2]:
            return None
        return dict(checkpoints.read(path))
    except (OSError, ResultsError):
        return None


def _all(folder: Path) -> list[Path]:
    """Checkpoints from the oldest to the newest."""
    paths = [path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: (int(path.name.split("-")[1]), path.stat().st_mtime_ns))


def _retire(folder: Path) -> None:
    for path in [*_all(folder)[:-KEPT], *folder.glob(f"*{_UNFINISHED}")]:
        with suppress(OSError):
            path.unlink()


def _link(path: Path, name: Path) -> None:
    """A second name for a file, in one step."""
    fresh = name.with_suffix(_UNFINISHED)
    with suppress(FileNotFoundError):
        fresh.unlink()
    try:
        os.link(path, fresh)
    except OSError:  # a file system without links
        fresh.write_bytes(path.read_bytes())
    os.replace(fresh, name)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
