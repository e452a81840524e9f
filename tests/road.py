"""Which files of softbench a command enters, in order: `python tests/road.py latency --attn soft --tokens 256`.

A file counts when one of its functions is called, but not while files are imported. docs/design.md says which of them a
reader opens.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = str(Path(__file__).parents[1] / "softbench") + "/"
entered: dict[str, str] = {}


def note(frame: FrameType, event: str, _: Any) -> None:
    path, code = frame.f_code.co_filename, frame.f_code
    if event == "call" and path.startswith(ROOT) and path not in entered and code.co_flags & inspect.CO_OPTIMIZED \
            and not importing(frame):
        entered[path] = code.co_qualname


def importing(frame: FrameType | None) -> bool:
    """Whether a module's or class's own lines are being run further up."""
    while frame and frame.f_code.co_filename != __file__:
        if "importlib" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


def main(arguments: list[str]) -> None:
    from softbench.__main__ import main as softbench

    sys.argv = ["softbench", *arguments]
    sys.setprofile(note)
    try:
        softbench(arguments)
    finally:
        sys.setprofile(None)
        for number, (path, function) in enumerate(entered.items(), 1):
            print(f"{number:3} {path.removeprefix(ROOT):45} {function}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
