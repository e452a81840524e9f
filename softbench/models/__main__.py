"""Runs a script with our models registered: `python -m softbench.models train.py DATA --model soft_tiny`.

timm's own train.py, validate.py and benchmark.py know the models that are registered when they start; this registers
ours first and then runs the script as it is.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import softbench.models  # noqa: F401  # registers
from softbench.errors import UsageError


def main() -> None:
    """Run the script that the command line names, with the arguments after it."""
    script, sys.argv = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[1:]
    if not Path(script).is_file():
        print(f"Error: no script '{script}'. Usage: python -m softbench.models SCRIPT.py [ARGUMENTS]", file=sys.stderr)
        sys.exit(UsageError.exit_code)
    sys.path.insert(0, str(Path(script).resolve().parent))
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
