"""Former names of modules that moved into rooms still import for one version, as files of others use them."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

NOW = {  # below softbench
    "anticipated": "subjects.anticipated",
    "backbones": "subjects.model",
    "ceilings": "machine.ceilings",
    "contained": "plugins.contained",
    "environment": "machine.environment",
    "families": "inputs.made_up",
    "gate.machine": "machine.checks",
    "isolate": "bench.isolate",
    "process": "processes.setup",
    "reports.comparison": "reports.tables.comparison",
    "reports.plots": "reports.figures",
    "reports.ratios": "reports.figures.ratios",
    "session": "bench.session",
    "sweep": "bench.sweep",
    "training.badimages": "training.journal",
    "training.classmap": "tasks.images.classmap",
    "training.data": "tasks.images.data",
    "training.evaluate": "training.loop",
    "training.fingerprint": "tasks.images.fingerprint",
    "training.folders": "tasks.images.folders",
    "training.preparing": "tasks.images.preparing",
    "training.recipe": "tasks.images.recipe",
    "training.seeding": "inputs.seeding",
    "training.sources": "tasks.images.sources",
    "training.stopping": "processes.stopping",
    "training.views": "records.verbs",
    "views": "records.views",
    "workload": "subjects.workload",
}


class _Former:
    """Finds and loads a module by its former name: what the module now there defines, under a name of its own."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, below = name.partition(".")
        return ModuleSpec(name, cast(Any, _Former())) if package == "softbench" and below in NOW else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        place = f"softbench.{NOW[module.__name__.removeprefix('softbench.')]}"
        warnings.warn(f"{module.__name__} is {place} now; its former name goes with the next version.",
                      DeprecationWarning, stacklevel=2)
        names = vars(importlib.import_module(place)).items()
        vars(module).update({name: value for name, value in names if not name.startswith("__")})


def keep() -> None:
    """Make the former names importable, behind every module that exists."""
    sys.meta_path.append(_Former)
