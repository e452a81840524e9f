"""Plugins: a plugin is a module, and its file name is its name.

Four kinds exist: `attention`, `measures`, `studies`, `tasks`. Each has three sources: what lies in `softbench/<kind>/`
as `name.py` or as a folder `name/`, the entry points of the group `softbench.<kind>` that installed packages declare,
and, for attentions and tasks, a path ending in `.py` on the command line. `names` and `facts` read files without
importing them, so that listing costs no torch.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from softbench.errors import PluginError, SoftbenchError, text, unknown
from softbench.plugins.contained import Raised, contained

_ROOT = Path(__file__).parents[1]
_codes: dict[str, str] = {}
_SINGULAR = {"attention": "attention", "measures": "measure", "studies": "study", "tasks": "task"}
_FROM_FILES = ("attention", "tasks")


def names(kind: str) -> list[str]:
    """Names of all plugins of a kind, built-in first, each group sorted."""
    return [*_builtin(kind), *(n for n in sorted(_entry_points(kind)) if n not in _builtin(kind))]


def ships(kind: str, name: str) -> bool:
    """True where the plugin is softbench's own, rather than an installed package's or a file's."""
    return name in _builtin(kind)


def is_path(name: str) -> bool:
    """True where the name of an attention or a task means a file rather than a registered plugin."""
    return name.endswith(".py")


def display_name(name: str) -> str:
    """Name the plugin as tables do: a path is called by its stem."""
    return Path(name).stem if is_path(name) else name


def facts(kind: str, name: str) -> dict[str, Any]:
    """The module's literal constants, and its first docstring line under `summary`, read without importing it."""
    path = where(kind, name)
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise PluginError(f"Cannot read {_SINGULAR[kind]} '{name}' ({path}): {error}.") from error
    constants: dict[str, Any] = {"summary": (ast.get_docstring(tree) or "").partition("\n")[0]}
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id.isupper() and value is not None:
            try:
                constants[target.id] = ast.literal_eval(value)
            except (ValueError, TypeError):  # not a literal, or one such as {[]: 1}
                continue
    return constants


def summary(kind: str, name: str) -> str:
    """The plugin's first docstring line, without its name in front; for a file that cannot be read, why."""
    try:
        return re.sub(rf"^{re.escape(name.replace('_', '-'))}: ", "", str(facts(kind, name)["summary"]), flags=re.I)
    except PluginError as error:
        return f"cannot be used: {error}"


def load(kind: str, name: str, required: Iterable[str] = ()) -> ModuleType:
    """Import the plugin and check that it has every name in `required`.

    Raises:
        UsageError: no plugin of that name. PluginError: it does not import, or lacks a required name.
    """
    try:
        with contained(), contextlib.redirect_stdout(sys.stderr):  # what it prints is no output of a command
            module = _import(kind, name)
    except SoftbenchError as error:
        if not isinstance(error, Raised):
            raise
        raise PluginError(f"Cannot import {_SINGULAR[kind]} '{name}': {error}.") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {text(error)}".partition("\n")[0].rstrip(": .")
        raise PluginError(f"Cannot import {_SINGULAR[kind]} '{name}': {reason}.") from error
    if name not in _builtin(kind):
        _codes[f"{kind}:{display_name(name)}"] = _code(kind, name)
    missing = [r for r in required if not hasattr(module, r)]
    if missing:
        raise PluginError(f"{_SINGULAR[kind].capitalize()} '{name}' lacks {', '.join(missing)}: see `softbench/{kind}/`"
                          " for files that keep the contract.")
    return module


def codes() -> str:
    """The plugins from elsewhere that this process has loaded, each with a digest of its code, as JSON."""
    return json.dumps(_codes, sort_keys=True) if _codes else ""


def changed(there: str, here: str, *names: str) -> bool:
    """True where any of these plugins, as "attention:mine", has other code in one text of `codes` than in the other."""
    one, other = map(_parsed, (there, here))
    return any(one.get(name) != other.get(name) for name in names or one.keys() & other.keys())


def _parsed(codes: str) -> dict[str, str]:
    """The text of `codes`; nothing where it comes from elsewhere and is none."""
    try:
        texts = json.loads(codes)
    except (ValueError, RecursionError):
        return {}
    return texts if isinstance(texts, dict) else {}


def _code(kind: str, name: str) -> str:
    """A digest of a plugin's file and the files that belong to it; of an installed package, with its version."""
    path = where(kind, name).resolve()
    if is_path(name):
        return digest(_beside(path, {path}))
    entry = _entry_points(kind)[name]
    return f"{entry.dist.version if entry.dist else ''}-{digest(_package(path))}"


def digest(files: Iterable[Path]) -> str:
    """Twelve digits that say whether files of these names hold the same."""
    sha = hashlib.sha256()
    for file in sorted(files):
        sha.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return sha.hexdigest()[:12]


def _beside(path: Path, files: set[Path]) -> set[Path]:
    """Return the file, what it imports from its own folder, and what that imports from there."""
    tree = ast.parse(path.read_bytes())
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for name in {name.partition(".")[0] for name in named if name}:
        if (file := path.parent / f"{name}.py").is_file() and file not in files:
            files.add(file)
            _beside(file, files)
        files.update((path.parent / name).rglob("*.py"))
    return files


def _package(path: Path) -> set[Path]:
    """All files of the top package that a module is in; of a module in none, itself."""
    top = None
    for folder in path.parents:
        if not (folder / "__init__.py").exists():
            break
        top = folder
    return {path} if top is None else set(top.rglob("*.py"))


def _import(kind: str, name: str) -> ModuleType:
    if name in _builtin(kind):
        return importlib.import_module(f"softbench.{kind}.{name}")
    if is_path(name) and kind in _FROM_FILES:
        return _import_file(where(kind, name))
    if name in _entry_points(kind):
        module = _entry_points(kind)[name].load()
        if not isinstance(module, ModuleType):
            raise PluginError(f"Entry point '{name}' of softbench.{kind} must name a module, not a"
                              f" {type(module).__name__}.")
        return module
    raise unknown(_SINGULAR[kind], name, names(kind))


def _import_file(path: Path) -> ModuleType:
    """The file as a module, anew where it has changed. It may import files beside it, which shadow no other module."""
    path = path.resolve()
    source = path.read_bytes()
    key = f"softbench_file_{path.stem}_{hashlib.sha1(os.fsencode(path) + source).hexdigest()[:8]}"
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # dataclasses look their module up while the file runs
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # a cached .pyc may be of an older text
    except BaseException:
        del sys.modules[key]
        raise
    return module


def where(kind: str, name: str) -> Path:
    """Return the file of a plugin."""
    if name in _builtin(kind):
        return _builtin(kind)[name]
    if is_path(name) and kind in _FROM_FILES:
        if not os.path.isfile(name):  # unlike Path.is_file, False where a name is too long or a folder locked
            raise PluginError(f"No {_SINGULAR[kind]} file '{name}'. Give the path of a Python file, or a name from"
                              " `softbench list`.")
        stem = display_name(name)
        if stem in names(kind) and not os.path.samefile(name, where(kind, stem)):
            raise PluginError(f"'{name}' has the name of another {_SINGULAR[kind]}, '{stem}', and records would not"
                              " tell them apart. Rename the file.")
        return Path(name)
    if name in _entry_points(kind):
        return _entry_point_source(_entry_points(kind)[name])
    raise unknown(_SINGULAR[kind], name, names(kind))


def _entry_point_source(entry: EntryPoint) -> Path:
    missing = PluginError(f"Entry point '{entry.name}' names '{entry.value}', which cannot be found. Reinstall or"
                          " remove the package that declares it.")
    try:
        parts = entry.module.split(".")
    except AttributeError:  # not of the form package.module
        raise missing from None
    if entry.dist is not None:
        for tail in (Path(*parts).with_suffix(".py"), Path(*parts, "__init__.py")):
            path = Path(str(entry.dist.locate_file(tail)))
            if path.is_file():
                return path
    try:
        spec = importlib.util.find_spec(entry.module)  # an editable install: imports the parent packages
    except Exception:  # which may raise anything
        raise missing from None
    if spec is None or spec.origin is None:
        raise missing
    return Path(spec.origin)


@functools.cache
def _builtin(kind: str) -> dict[str, Path]:
    folder = _ROOT / kind
    files = [*((p.stem, p) for p in folder.glob("*.py")), *((p.parent.name, p) for p in folder.glob("*/__init__.py"))]
    return {name: path for name, path in sorted(files) if not name.startswith("_")}


@functools.cache
def _entry_points(kind: str) -> dict[str, EntryPoint]:
    return {e.name: e for e in entry_points(group=f"softbench.{kind}")}
