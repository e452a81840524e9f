"""Settings: what the working directory's bench.toml changes, and nothing else, for a version that may know fewer keys.

A bench.toml may spell defaults out, as `softbench list --defaults` does. An older version would refuse the sections
that it does not have yet, and the gate with it; what only repeats a default is therefore left out.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softbench import config, files, options, plugins
from softbench.config import Process


def changed() -> str:
    """The text of a configuration file with the keys of ./bench.toml that differ from this version's defaults.

    Raises:
        UsageError: that file is wrong.
    """
    path = Path(config.FILE)
    if not path.exists():
        return ""
    config.load(path)  # says what is wrong with it
    lines: list[str] = []
    tables = tomllib.loads(files.read_text(path).decode())
    own = tables.pop("attention", {})
    for name, table in tables.items():
        lines += _section(name, {k: v for k, v in table.items() if _text(v) != _text(_defaults(name).get(k))})
    for name, table in own.items():
        lines += _section(f"attention.{json.dumps(name)}", table)
    return "".join(line + "\n" for line in lines)


def _defaults(section: str) -> dict[str, Any]:
    if section in ("sweep", "process"):
        cls: type = config.SweepConfig if section == "sweep" else Process
    else:
        kind = "measures" if section in plugins.names("measures") else "studies"
        cls = plugins.load(kind, section, ["Settings"]).Settings
    return {key: default for key, _, default, _ in options.describe(cls)}


def _text(value: Any) -> str:
    """One text for what means the same: 8, "8" and [8]; 20 and 20.0."""
    value = float(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return str(config.as_text(value)).removesuffix(".0")


def _section(name: str, table: Mapping[str, Any]) -> list[str]:
    """TOML of one table. A JSON text, number, truth value or list of them is TOML too."""
    return [f"[{name}]", *(f"{json.dumps(key)} = {json.dumps(value, ensure_ascii=False)}"
                           for key, value in table.items())] if table else []
