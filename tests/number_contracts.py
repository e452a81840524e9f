"""What every measure and every study must keep, as functions that raise AssertionError, as `contract.py` has them of
attentions: for the built-in files and for your own.

Each check takes a loaded plugin and its records of one small run. `MEASURE_CHECKS` and `STUDY_CHECKS` name them all.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from softbench import options
from softbench.bench.study import Study
from softbench.bench.sweep import Job, Sweep
from softbench.case import MODES, AttentionSpec, Case, Shape
from softbench.contracts import attention as attentions
from softbench.records import Record
from softbench.records.views import View
from softbench.subjects import OneAttention

HEAVY = {"torch", "pandas", "numpy", "matplotlib"}
NEEDED = {"softbench.studies.fit": {"memory": "1GiB"}}  # what a study must be given
Runs = Callable[[], list[Record]]


def described(module: ModuleType, run: Runs) -> None:
    """The first line says what it is, and each option what it does."""
    assert len((module.__doc__ or "").strip().partition("\n")[0]) > 10, "no first line"
    for name, _, _, text in options.describe(module.Settings):
        assert text, f"option {name} says nothing"
    module.Settings()  # every option has a default


def light(module: ModuleType, run: Runs) -> None:
    """Its `--help` needs no heavy package."""
    for node in ast.parse(Path(str(module.__file__)).read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [
            str(node.module)] if isinstance(node, ast.ImportFrom) else []
        assert HEAVY.isdisjoint(name.partition(".")[0] for name in names), f"imports {names} at the top"


def declared(module: ModuleType, run: Runs) -> None:
    """Each number is of a quantity that it lists, in its unit, and the headline is among them."""
    listed = {known.name: known.unit for known in module.QUANTITIES}
    records = run()
    assert records
    for record in records:
        assert listed.get(record.quantity) == record.unit, f"{record.quantity} in {record.unit} is not listed"
    assert module.QUANTITIES[0].name in {record.quantity for record in records}, "no headline"


def as_said(module: ModuleType, run: Runs) -> None:
    """What is exact is equal in two runs, what is seeded within rounding; times are positive."""
    known = {quantity.name: quantity for quantity in module.QUANTITIES}
    again = {record.identity(): record for record in run()}
    for first in run():
        kind, second = known[first.quantity].kind, again.get(first.identity())
        assert second or kind in ("time", "derived"), f"{first.quantity} is there once only"  # sizes may follow times
        if first.value is None or second is None or second.value is None:
            continue
        apart = abs(first.value - second.value)
        assert apart == 0 or kind != "exact", f"{first.quantity} is exact, and was {first.value}, then {second.value}"
        assert apart <= 1e-6 * max(1.0, abs(first.value)) or kind != "seeded", f"{first.quantity} is not as seeded"
        assert first.value > 0 or kind != "time", f"{first.quantity} took {first.value} s"


def silent(module: ModuleType, run: Runs) -> None:
    """It prints nothing and leaves no file."""
    out, before = io.StringIO(), Path.cwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        os.chdir(folder)
        try:
            run()
            assert os.listdir(folder) == [], "it wrote files"
        finally:
            os.chdir(before)
    assert out.getvalue() == "", f"it printed {out.getvalue()!r}"


def modes(module: ModuleType, run: Runs) -> None:
    """It names modes that exist."""
    named = getattr(module, "MODES", MODES)
    assert named
    assert set(named) <= set(MODES), f"{named}"


def quick(module: ModuleType, run: Runs) -> None:
    """`--quick` changes settings that exist, to values that they may have."""
    options.parse(module.Settings, dict(module.QUICK), "QUICK")


def tasks(module: ModuleType, run: Runs) -> None:
    """Each task has a name of its own, and the same one again, and settings that choose tasks exist: `--resume` goes by
    both."""
    given = options.parse(module.Settings, NEEDED.get(module.__name__, {}), "the test")
    names = [[task.name for task in module.tasks(given)] for _ in range(2)]
    assert names[0] == names[1], "names change"
    assert len(set(names[0])) == len(names[0]), "two tasks have one name"
    assert names[0], "no tasks"
    assert set(getattr(module, "CHOICES", ())) <= {field.name for field in dataclasses.fields(module.Settings)}


def views(module: ModuleType, run: Runs) -> None:
    """Views have names of their own, and show quantities that it lists; of a study, one is a table."""
    listed = {known.name for known in module.QUANTITIES}
    its = getattr(module, "VIEWS", ())
    assert len({view.name for view in its}) == len(its), "two views have one name"
    assert any(view.is_table for view in its) or not hasattr(module, "tasks"), "no table"
    for view in its:
        assert (shown := set(_quantities(view))) <= listed, f"{view.name} shows {shown - listed}, which it lists not"


def _quantities(view: View) -> Iterator[str]:
    for name in ("quantity", "quantities", "reference", "span", "fitted", "beyond"):
        value = getattr(view, name, "")
        yield from (value,) if isinstance(value, str) and value else value or ()


MEASURE_CHECKS = {check.__name__: check for check in (described, light, declared, as_said, silent, modes, views)}
STUDY_CHECKS = {check.__name__: check for check in (described, light, declared, as_said, silent, quick, tasks, views)}


def measured(name: str, module: ModuleType, mode: str = "") -> list[Record]:
    """The records of one small case."""
    spec = AttentionSpec("softmax", {})
    chosen = mode or getattr(module, "MODES", MODES)[0]
    case = Case(spec, Shape(1, 2, 4, 4, 8), "float32", "cpu", chosen)
    settings = options.parse(module.Settings, dict(getattr(module, "QUICK", {})), "QUICK")
    sweep = Sweep(name, module, settings, [Job(case, OneAttention(attentions.load(spec), spec))])
    return [record for _, records in sweep for record in records]


def studied(name: str, module: ModuleType, count: int = 2) -> list[Record]:
    """The records of the first tasks of the quick study."""
    settings = _quick(module)
    return [record for _, records in Study(name, module, settings, module.tasks(settings)[:count])
            for record in records]


def _quick(module: ModuleType) -> object:
    return options.parse(module.Settings, dict(module.QUICK), "QUICK")


def run_of(kind: str, name: str, module: ModuleType) -> Runs:
    """One small run of a plugin."""
    return functools.partial(measured if kind == "measures" else studied, name, module)


def unlisted(records: Sequence[Record], module: ModuleType) -> set[tuple[str, str]]:
    """Quantities and units of records that the plugin does not list."""
    return {(r.quantity, r.unit) for r in records} - {(q.name, q.unit) for q in module.QUANTITIES}
