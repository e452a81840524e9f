"""The fingerprint of data: what a run keeps to know them again, and to tell others of the same name from them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from softbench.contracts.recipe import digest
from softbench.tasks.images.folders import File, Pictures, some
from softbench.tasks.images.sources import Source, Split

_LOOKED_AT = 1000  # pictures of each split, evenly over it
_BYTES = 4096  # of each, from its beginning
_REPAIRED = 0.1  # share of these that may change without being other data


def of(source: Source) -> dict[str, Any]:
    """Plain values: the names of the classes, and digests of the files of each split and of the bytes of some."""
    splits = {"train": source.train, "val": source.val}
    return {"classes": source.names, **{name: _of_split(split) for name, split in splits.items() if split is not None}}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """How data differ from those of an earlier fingerprint, in words; a few pictures may have been repaired."""
    if before["classes"] != now["classes"]:
        return [f"classes: {some(before['classes'] or ['unknown'])} -> {some(now['classes'] or ['unknown'])}"]
    words = []
    for split in ("train", "val"):
        ours, theirs = before[split], now[split]
        pairs = list(zip(ours["looked_at"], theirs["looked_at"], strict=False))
        changed = sum(one != other for one, other in pairs)
        if ours["images"] != theirs["images"]:
            words.append(f"images in {split}: {ours['images']} -> {theirs['images']}")
        elif ours["files"] != theirs["files"]:
            words.append(f"names or labels of files in {split}")
        elif changed > 1 + _REPAIRED * len(pairs):
            words.append(f"{changed} of {len(pairs)} pictures looked at in {split}")
    return words


def _of_split(split: Split) -> dict[str, Any]:
    reader = split.reader
    paths = [file.path for file in reader.samples] if isinstance(reader, Pictures) else []
    every = -(-len(paths) // _LOOKED_AT)
    looked_at = [_looked_at(reader, file) for file in reader.samples[::every]] if paths else []
    return {"images": split.size, "files": digest([paths, list(split.labels or ())]), "looked_at": looked_at}


def _looked_at(reader: Pictures, file: File) -> str:
    try:
        return hashlib.sha256(reader.beginning(file, _BYTES)).hexdigest()[:8]
    except OSError:
        return ""  # it will count as unreadable
