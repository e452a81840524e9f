"""The contract of a task file: something to learn, with samples that are the same on every machine.

A task file `softbench/tasks/<name>.py` (or any file given as `--task ./mine.py`) defines

- a docstring whose first line says what it is, and whose body gives the rule by which samples are made, how many there
  are, what guessing reaches, and the source;
- `TITLE`: what pictures call it; `SOURCE`: the paper or package that the rule or the samples come from;
- `INPUT`: what a sample is, one of `INPUTS`, as `Samples` describes them;
- `READOUT`: where a model is read, one of `READOUTS`: at the mean of its tokens, at a class token (a sequence's alone),
  or at the positions that each sample names;
- `SCORES`: the names of what is scored on it, its headline first; one of `KNOWN_SCORES` each;
- `Settings`: a frozen dataclass of `softbench.options.option` fields that extends `Sizes`;
- `QUICK`: the settings that make it small, for tests and trials;
- `open(settings, split) -> Samples`: the samples of one of `SPLITS`; it neither prints nor saves;
- `chance(settings) -> float`: the score that a guess without looking at the sample's order reaches on average;
- optionally `RECIPE`: how it is trained where that is not as `softbench train` does by default.

All constants are literals, so that `softbench list` reads them without importing the file. Samples are drawn from one
generator of their own, seeded by the settings, never from a global one; the splits share no sample. A guess (the most
frequent label, one token, the tokens without their order) may not reach half of what there is to learn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from softbench import options, plugins
from softbench.errors import PluginError, SoftbenchError, UsageError, text
from softbench.options import option
from softbench.plugins.contained import contained

INPUTS = ("tokens", "bytes", "numbers", "patches", "image")
READOUTS = ("mean", "class token", "queries")
KNOWN_SCORES = ("accuracy", "top1", "top5")
SPLITS = ("train", "val", "test")
BYTES = 256
REQUIRED = ("TITLE", "SOURCE", "INPUT", "READOUT", "SCORES", "Settings", "QUICK", "open", "chance")
_DIMS = {"tokens": 2, "bytes": 2, "numbers": 3, "patches": 4, "image": 4}

Array = NDArray[Any]


@dataclass(frozen=True)
class Sizes:
    """The settings that every task begins with."""

    train: int = option(20_000, "samples to learn from, at most", low=1)
    val: int = option(1_000, "samples by which settings are chosen", low=1)
    test: int = option(2_000, "samples that are scored once, at the end", low=1)
    data_seed: int = option(0, "of the samples", low=0, high=2**31 - 1)


@dataclass(frozen=True)
class Samples:
    """One split of a task.

    Attributes:
        inputs: "tokens": whole numbers below `vocab` [S, N], 0 being padding; "bytes": uint8 [S, N], 0 being padding;
            "numbers": floats [S, N, C]; "patches": floats [S, rows, cols, P]; "image": uint8 [S, C, rows, cols].
        labels: whole numbers below `classes` [S]; where queries are read [S, Q].
        queries: positions below N [S, Q], where queries are read.
        patch: side in pixels of the patches that an encoder makes of an image.
    """

    inputs: Array
    labels: Array
    classes: int
    queries: Array | None = None
    vocab: int = BYTES
    patch: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """Twelve digits that say whether two machines have the same samples."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.labels, *(() if self.queries is None else (self.queries,))):
            little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
            digest.update(f"{little.dtype.str}{little.shape}".encode() + little.tobytes())
        return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Form:
    """The facts of a task that a model is built for.

    Attributes:
        grid: rows and cols of the tokens, 1 x N for a sequence.
        vocab: of tokens; channels: numbers that each token of another kind holds.
    """

    kind: str
    readout: str
    grid: tuple[int, int]
    classes: int
    vocab: int = 0
    channels: int = 0
    patch: int = 1


@dataclass(frozen=True)
class Task:
    """A loaded task together with its settings; `changed` are those that are not its defaults."""

    name: str
    module: ModuleType
    settings: Any
    changed: dict[str, Any]

    @property
    def label(self) -> str:
        """How tables call it: `mqar`, `mqar:pairs=16`."""
        return ":".join([self.name, *(f"{key}={value}" for key, value in self.changed.items())])

    @property
    def recipe(self) -> dict[str, Any]:
        """How it is trained where that is not as by default."""
        return dict(getattr(self.module, "RECIPE", {}))

    def open(self, split: str) -> Samples:
        """The samples of a split.

        Raises:
            UsageError: the settings allow none such. PluginError: the file raises, or gives something else.
        """
        try:
            with contained():
                samples = self.module.open(self.settings, split)
        except (UsageError, MemoryError):
            raise
        except Exception as error:
            reason = text(error) if isinstance(error, SoftbenchError) else f"{type(error).__name__}: {text(error)}"
            raise PluginError(f"Task '{self.name}': open() raised {reason}") from error
        if fault := _fault(self.module, samples):
            raise PluginError(f"Task '{self.name}', {split}: {fault}.")
        return samples

    def chance(self) -> float:
        """Return the score of a guess."""
        try:
            with contained():
                return float(self.module.chance(self.settings))
        except Exception as error:
            raise PluginError(f"Task '{self.name}': chance() raised {type(error).__name__}: {text(error)}.") from error

    def form(self, samples: Samples) -> Form:
        """The facts that a model for these samples is built for."""
        kind, shape = str(self.module.INPUT), samples.inputs.shape
        form = Form(kind, str(self.module.READOUT), (1, shape[1]), samples.classes)
        if kind in ("tokens", "bytes"):
            return replace(form, vocab=samples.vocab if kind == "tokens" else BYTES)
        if kind == "image":
            grid = shape[2] // samples.patch, shape[3] // samples.patch
            return replace(form, grid=grid, channels=shape[1] * samples.patch**2, patch=samples.patch)
        return replace(form, grid=(1, shape[1]) if kind == "numbers" else shape[1:3], channels=shape[-1])


def load(name: str, values: Mapping[str, Any] | None = None) -> Task:
    """The task of that name or file, with settings as text or numbers.

    Raises:
        UsageError: unknown name or setting, value of a wrong type. PluginError: the file breaks the contract.
    """
    called = plugins.display_name(name)
    if hasattr(plugins.load("tasks", name), "whole"):
        raise UsageError(f"Task '{called}' has models of its own: softbench train --task {name} learns it.")
    module = plugins.load("tasks", name, REQUIRED)
    for constant, known in (("INPUT", INPUTS), ("READOUT", READOUTS)):
        if getattr(module, constant) not in known:
            raise PluginError(f"Task '{called}': {constant} {getattr(module, constant)!r} is none of"
                              f" {', '.join(known)}.")
    if not isinstance(module.SCORES, tuple) or not module.SCORES or any(
            score not in KNOWN_SCORES for score in module.SCORES):
        raise PluginError(f"Task '{called}': SCORES must be a tuple of {', '.join(KNOWN_SCORES)}.")
    recipe = getattr(module, "RECIPE", {})
    if not isinstance(recipe, Mapping) or not all(isinstance(key, str) for key in recipe):
        raise PluginError(f"Task '{called}': RECIPE must be a dict of keys of the recipe and their values.")
    if not isinstance(module.Settings, type) or not issubclass(module.Settings, Sizes) or (
            "__dataclass_fields__" not in vars(module.Settings)):  # it has those of Sizes in any case
        raise PluginError(f"Task '{called}': Settings must be a frozen dataclass that extends"
                          " softbench.contracts.task.Sizes.")
    settings = options.parse(module.Settings, values or {}, f"task '{called}'")
    changed = {key: value for key, value in options.to_dict(settings).items()
               if value != getattr(module.Settings(), key)}
    return Task(called, module, settings, changed)


def _fault(module: ModuleType, samples: Any) -> str:
    """Why these are no samples of the task; "" where they are."""
    if not isinstance(samples, Samples):
        return f"open() must return Samples, not a {type(samples).__name__}"
    inputs, labels, queries = samples.inputs, samples.labels, cast(Any, samples.queries)
    if not all(isinstance(array, np.ndarray) for array in (inputs, labels)):
        return "inputs and labels must be numpy arrays"
    for what, number in (("classes", samples.classes), ("vocab", samples.vocab), ("patch", samples.patch)):
        if not isinstance(number, int | np.integer) or number < 1:
            return f"{what} must be a whole number of 1 or more, not {number!r}"
    at_queries = module.READOUT == "queries"
    dims = _DIMS[module.INPUT], 1 + at_queries
    if (inputs.ndim, labels.ndim) != dims or len(inputs) != len(labels) or not (inputs.size and labels.size):
        return (f"inputs {inputs.shape} and labels {labels.shape} are not those of {module.INPUT} read by"
                f" {module.READOUT}")
    if queries is not None and not isinstance(queries, np.ndarray):
        return f"queries must be a numpy array, not a {type(queries).__name__}"
    if at_queries == (queries is None) or (queries is not None and queries.shape != labels.shape):
        return "each label of a query needs its position, and no other has one"
    for what, array, end in (("labels", labels, samples.classes), ("tokens", inputs, samples.vocab),
                             ("query positions", queries, inputs.shape[1])):
        if (what == "tokens" and module.INPUT != "tokens") or array is None:
            continue
        if array.dtype.kind not in "iu":
            return f"{what} must be whole numbers, not {array.dtype}"
        if int(array.min()) < 0 or int(array.max()) >= end:
            return f"{what} must be whole numbers from 0 to {end - 1}, and go from {array.min()} to {array.max()}"
    if module.INPUT in ("bytes", "image") and inputs.dtype != np.uint8:
        return f"{module.INPUT} must be uint8, not {inputs.dtype}"
    if module.INPUT in ("numbers", "patches") and not (inputs.dtype.kind == "f" and np.isfinite(inputs).all()):
        return f"{module.INPUT} must be finite floats"
    if module.INPUT == "image" and (inputs.shape[2] % samples.patch or inputs.shape[3] % samples.patch):
        return f"images of {inputs.shape[2]}x{inputs.shape[3]} pixels hold no whole patches of {samples.patch}"
    return ""
