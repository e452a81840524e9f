"""Control groups: the CPU time and the memory that this process may have, in versions 1 and 2, and in nested groups.

A group is bound by its own limits and by those of every group around it. Where this process stands is said by
/proc/self/cgroup, where the groups' files are by /proc/self/mountinfo. In a container the mount often begins at the
container's own group; of groups further out nothing is visible, and nothing can be said.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_UNLIMITED = 1 << 60  # bytes: version 1 has no word for "no limit", only a large number


def quota(root: Path = _ROOT) -> float | None:
    """CPU time this process may take, in cores; None where no group limits it."""
    return min(filter(None, map(_quota, _groups(root, "cpu"))), default=None)


def free_memory(root: Path = _ROOT) -> int | None:
    """Bytes that this process's groups may still take, file caches counted as free; None where no group limits it."""
    return min((free for group in _groups(root, "memory") if (free := _free(group)) is not None), default=None)


def kills(root: Path = _ROOT) -> int | None:
    """A count that rises whenever the kernel kills for want of memory, here or around; None where nothing counts."""
    files = [group / name for group in _groups(root, "memory") for name in ("memory.events", "memory.oom_control")]
    counts = [_entry(read(path), "oom_kill") for path in (*files, root / "proc/vmstat")]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _quota(group: Path) -> float | None:
    words = (read(group / "cpu.max") or "").split() or [
        read(group / "cpu.cfs_quota_us") or "", read(group / "cpu.cfs_period_us") or ""]
    if len(words) < 2 or not words[0].isdigit() or not words[1].isdigit():  # "max", or -1: as much as there is
        return None
    return int(words[0]) / max(1, int(words[1]))


def _free(group: Path) -> int | None:
    limits = _numbers(group, "memory.max", "memory.high", "memory.limit_in_bytes")
    known = [limit for limit in limits if limit < _UNLIMITED]
    used = max(_numbers(group, "memory.current", "memory.usage_in_bytes"), default=None)
    if not known or used is None:
        return None
    statistics = read(group / "memory.stat")
    cached = _entry(statistics, "total_inactive_file") or _entry(statistics, "inactive_file") or 0
    return max(0, min(known) - max(0, used - cached))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the groups of this controller that this process is in, the innermost first."""
    for mount, top, controllers in _mounts(root):
        own = _own(root, controller, controllers)
        if own is None:
            continue
        inside = own == top or own.startswith(f"{top.rstrip('/')}/")
        below = own[len(top.rstrip("/")):].strip("/") if inside and ".." not in own else ""
        folder = mount / below
        yield folder
        while folder != mount:
            folder = folder.parent
            yield folder


def _mounts(root: Path) -> Iterator[tuple[Path, str, list[str] | None]]:
    """Where groups are mounted, at which group each mount begins, and its controllers; None for version 2."""
    lines = (read(root / "proc/self/mountinfo") or "").splitlines()
    for line in lines:
        before, _, after = line.partition(" - ")
        place, kind = before.split(), after.split()
        if len(place) > 4 and len(kind) > 2 and kind[0] in ("cgroup", "cgroup2"):
            controllers = None if kind[0] == "cgroup2" else kind[2].split(",")
            yield root / _plain(place[4]).lstrip("/"), _plain(place[3]), controllers
    if not lines:
        yield root / "sys/fs/cgroup", "/", None


def _own(root: Path, controller: str, controllers: list[str] | None) -> str | None:
    """The group that this process is in, in the hierarchy of that mount; None where that has not this controller."""
    if controllers is not None and controller not in controllers:
        return None
    text = read(root / "proc/self/cgroup")
    if not text:
        return "/"
    for line in text.splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if (controllers is None and not names) or (controllers is not None and controller in names.split(",")):
            return path
    return None


def _plain(path: str) -> str:
    """Return the path without the escapes of mountinfo."""
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _entry(text: str | None, name: str) -> int | None:
    for line in (text or "").splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return None


def _numbers(group: Path, *names: str) -> list[int]:
    texts = [read(group / name) for name in names]
    return [int(text) for text in texts if text and text.isdigit()]


def read(path: Path | str) -> str | None:
    """The text of a file, without white space around it; None where it cannot be read."""
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
