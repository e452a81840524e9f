"""The contract of an attention file, and the few helpers that all of them need.

Shapes: q, k are [B, H, N, D]; v is [B, H, N, E]; N = rows * cols tokens in row-major order; the output is [B, H, N, E].

An attention file `softbench/attention/<name>.py` (or any file given as `--attn ./mine.py`) defines

- a docstring whose first line says what it is, and whose body gives formula, complexity and source;
- `APPROXIMATES`: the name of the exact attention that it estimates, or None where it defines its own kernel;
- `SHARES_QK`: True where keys are the queries (SOFT): `k` is then not used, and callers pass q twice;
- `LINEAR_IN_V`: True where the output is S(q, k) v, so that `attn(q, k, I)` is its own N x N matrix;
- `CAUSAL`: "never" where a token always sees all, "always" where it never sees a later one, "either" where both forms
  exist and `shape.causal` says which is built and costed; row i of a causal form is as the first i tokens have it;
- `FAMILY`: its place in the field, one of `FAMILIES`; `COMPLEXITY`: how its work grows with the tokens, as its paper
  claims: "N", "N log N" or "N^2";
- `IMPLS`: its implementations, fastest first, the plainest (the one trusted as oracle) last;
- `Options`: a frozen dataclass of `softbench.options.option` fields; the one that is m, which buys accuracy, is marked
  `size=True`, and is what `approx-error` varies;
- `build(shape, options, impl) -> torch.nn.Module` with `forward(q, k, v, grid=(rows, cols), **inputs) -> [B, H, N, E]`;
- `cost(shape, options) -> Cost`;
- optionally `INPUTS`: what it needs beside q, k, v, each with its range, so that any workload can draw it: {"beta":
  ("head", 0.0, 1.0)} is a number for each head [B, H, N] from 0 to 1, ("channel", None, 0.0) one for each channel of
  the keys [B, H, N, D] of at most 0; `UNIT_KEYS`: True where keys should have length 1, as its models give them;
- optionally, where a causal form has a state, the module's `state(shape, value_dim=0)`, that before the first token (it
  is told E where that is not D), and `step(q, k, v, state, **inputs) -> (output, state)`: some tokens more, which see
  those before them through the state alone;
- optionally `supports(impl, device, dtype, shape) -> str`: why `impl` cannot run there ("" where it can); `shape` is
  None where it is not known;
- optionally `fits(shape, options) -> str`: why it cannot run at that shape ("" where it can);
- optionally `SAME_DIM`: True where v must have the head_dim of q and k, E = D;
- optionally `rank(shape, options) -> int`: a bound on the rank of its matrix, from its landmarks or features;
- optionally `NORMALISED`: True where it estimates `gaussian` with symmetrically normalised rows and columns;
- optionally `PYRAMID`: its options in a pyramid's stages where they are not its defaults, an entry for each of the
  three stages in a tuple; `OFFICIAL`: those that make it what its authors' code computes, whose weights exist;
- optionally `parts(shape, options) -> dict[str, float]`: FLOP within its cost that papers leave out, by name;
- optionally `avoidable(shape, options) -> float`: FLOP within its cost that a kernel may leave out, as those of pairs
  that are masked: the floor of its time, which a measured one may not be far below, is without them;
- optionally `note(shape, options) -> str`: what a reader of the number must know ("36 of 49 landmarks: ...").

`FAMILY` and `COMPLEXITY` may be missing from a file of yours: what is not said is shown as "-"; and without `CAUSAL`
it is "never". All constants are
literals, so that `softbench list` can read them without importing torch. Every sample's result depends on that sample
alone; half precision inputs are accumulated in float32, and may meet float32 parameters (within a backbone under
autocast, attentions run outside it); parameters and random projections are drawn while building (seed torch first) or
from a seed among the options, never during a call, in training neither. What was drawn and decides the result is in the
state_dict: itself, or the seed it follows from (`_drawn`). A batch of 0 samples gives an output of none.

A module need not check its inputs: before each call it is told (`_checks`) that they are tensors of one floating dtype
and device, that their shapes and the grid agree, and that its weights fit as many heads of that dim; not so under
torch.compile and torch.jit.trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from softbench import dtypes, options, plugins
from softbench.case import AttentionSpec, Shape
from softbench.contracts import _gates
from softbench.contracts._checks import Checks
from softbench.contracts._checks import check_inputs as check_inputs
from softbench.contracts._gates import Gate as Gate
from softbench.errors import PluginError, Unsupported, text
from softbench.plugins.contained import contained
from softbench.processes import state

FAMILIES = ("exact", "feature map", "landmark", "low rank", "sparse", "reduction", "channel", "recurrent")
FORMS = ("never", "either", "always")
COMPLEXITIES = ("N", "N log N", "N^2")
_HALF = tuple(map(dtypes.of, dtypes.HALF))
REQUIRED = ("APPROXIMATES", "SHARES_QK", "LINEAR_IN_V", "IMPLS", "Options", "build", "cost")
_disturbances: dict[str, str] = {}  # by the names of modules, which are imported once


@dataclass(frozen=True)
class Cost:
    """One forward call costs this in theory.

    Attributes:
        flops: floating-point operations of all matrix products and convolutions, 2 per multiply-add. Elementwise
            work, exponentials and reductions are not counted, as in torch's and fvcore's counters.
        elements: numbers held at once beyond inputs and output, at the peak, to leading order. An estimate: it
            predicts out-of-memory and fills `--dry-run`; memory itself is measured.
    """

    flops: float
    elements: float


@dataclass(frozen=True)
class Attention:
    """A loaded attention plugin together with the options it is asked to run with.

    `disturbance` is what its file changed of this process when it was imported, which was put back; "" for nothing.
    """

    name: str
    module: ModuleType
    options: Any
    disturbance: str = ""

    @property
    def size_option(self) -> str | None:
        """The option that is m: landmarks, features, whatever the file calls it; None for an attention without one."""
        return next((field.name for field in fields(self.module.Options) if field.metadata.get("size")), None)

    @property
    def causal(self) -> str:
        """One of FORMS: it has a causal form or not, and another or not."""
        return str(getattr(self.module, "CAUSAL", "never"))

    @property
    def gates(self) -> dict[str, Gate]:
        """The numbers that it needs beside q, k and v, by name."""
        return _gates.parse(self.name, getattr(self.module, "INPUTS", {}))

    def check_gates(self, q: Tensor, inputs: Mapping[str, Any]) -> None:
        """Raise UsageError unless the inputs beside q [B, H, N, D] are what it needs, in size and range."""
        _gates.check(self.name, self.gates, q, inputs)

    def formless(self, causal: bool) -> str:
        """Why it has not that form; "" where it has."""
        if causal and self.causal == "never":
            return f"{self.name} has no causal form: `softbench list --causal` names those that have"
        if not causal and self.causal == "always":
            return f"{self.name} is causal alone: ask for it with --causal, or causal=True"
        return ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Attention:
        return self  # nothing in it changes, and a Python module cannot be copied

    def __reduce__(self) -> tuple[Any, ...]:
        """A Python module cannot be pickled either: the attention is loaded again, by its name or from its file."""
        source = self.name if self.name in plugins.names("attention") else str(self.module.__file__)
        return load, (AttentionSpec(source, options.to_dict(self.options)),)

    def build(self, shape: Shape, impl: str) -> nn.Module:
        """The module at that shape, which checks its inputs. Raises Unsupported where the attention cannot have it."""
        module = self.bare(shape, impl)
        same_dim = getattr(self.module, "SAME_DIM", False)
        checks = Checks(self.name, module, shape, partial(self.bare, impl=impl), same_dim, self.gates)
        module.register_forward_pre_hook(checks, with_kwargs=True)
        return module

    def bare(self, shape: Shape, impl: str) -> nn.Module:
        """The module as the file makes it."""
        if reason := self.formless(shape.causal):
            raise Unsupported(reason)
        if reason := self.misfit(shape):
            raise Unsupported(f"{self.name} cannot run on {shape.rows}x{shape.cols} tokens of dim {shape.head_dim}:"
                              f" {reason}")
        module = self.module.build(shape, self.options, impl)
        if not isinstance(module, nn.Module):
            raise PluginError(f"Attention '{self.name}': build() must return a torch module, not a"
                              f" {type(module).__name__}.")
        return module

    def misfit(self, shape: Shape) -> str:
        """Why the attention cannot run at that shape; "" where it can."""
        fits: Callable[[Shape, Any], str] = getattr(self.module, "fits", lambda shape, options: "")
        return fits(shape, self.options)

    def cost(self, shape: Shape) -> Cost:
        try:
            with contained():
                cost = self.module.cost(shape, self.options)
        except Exception as error:
            cause = f"{type(error).__name__}: {text(error)}"
            raise PluginError(f"Attention '{self.name}': cost() raised {cause}.") from error
        if not isinstance(cost, Cost):
            raise PluginError(f"Attention '{self.name}': cost() must return a Cost, not a {type(cost).__name__}.")
        return cost

    def parts(self, shape: Shape) -> dict[str, float]:
        """FLOP within its cost that are told apart, by name."""
        split: Callable[[Shape, Any], dict[str, float]] = getattr(self.module, "parts", lambda shape, options: {})
        return split(shape, self.options)

    def avoidable(self, shape: Shape) -> float:
        """FLOP within its cost that a kernel may leave out."""
        count: Callable[[Shape, Any], float] = getattr(self.module, "avoidable", lambda shape, options: 0.0)
        try:
            with contained():
                return float(count(shape, self.options))
        except Exception as error:
            cause = f"{type(error).__name__}: {text(error)}"
            raise PluginError(f"Attention '{self.name}': avoidable() raised {cause}.") from error

    def note(self, shape: Shape) -> str:
        describe: Callable[[Shape, Any], str] = getattr(self.module, "note", lambda shape, options: "")
        try:
            with contained():
                return str(describe(shape, self.options))
        except Exception as error:  # which is no reason to lose the number that the remark is on
            return f"its note() raised {type(error).__name__}: {text(error)}"

    def resolve(self, impl: str, device: str, dtype: torch.dtype, shape: Shape | None = None) -> str:
        """The implementation that runs: `impl` itself, or for "auto" the first one that can.

        Raises:
            Unsupported: it cannot run on this device, dtype and shape, or does not exist; says which does.
        """
        impls: tuple[str, ...] = self.module.IMPLS
        supports: Callable[[str, str, torch.dtype, Shape | None], str] = getattr(self.module, "supports", lambda *_: "")
        if shape and (reason := self.formless(shape.causal)):
            raise Unsupported(reason)
        if impl != "auto" and impl not in impls:
            raise Unsupported(f"{self.name} has no implementation '{impl}'; it has {', '.join(impls)}")
        reasons = []
        for candidate in impls if impl == "auto" else (impl,):
            if not (reason := supports(candidate, device, dtype, shape)):
                return candidate
            reasons.append(f"{candidate}: {reason}")
        raise Unsupported(f"{self.name} cannot run here ({'; '.join(reasons)})")


def load(spec: AttentionSpec, defaults: dict[str, Any] | None = None) -> Attention:
    """The attention that a spec names, with its options parsed on top of `defaults` (from bench.toml).

    Raises:
        UsageError: unknown name or option, value of a wrong type. PluginError: the file breaks the contract.
    """
    with state.kept() as changes:
        module = plugins.load("attention", spec.name, REQUIRED)
    if changes:
        _disturbances[module.__name__] = state.sentence(changes)
    name = plugins.display_name(spec.name)
    _check(module, name)
    chosen = options.parse(module.Options, {**(defaults or {}), **spec.options}, f"attention '{name}'")
    return Attention(name, module, chosen, _disturbances.get(module.__name__, ""))


def _check(module: ModuleType, name: str) -> None:
    try:
        fields(module.Options)
    except TypeError:
        raise PluginError(f"Attention '{name}': Options must be a frozen dataclass.") from None
    marked = [field.name for field in fields(module.Options) if field.metadata.get("size")]
    if len(marked) > 1 or any(options.types(module.Options)[one] is not int for one in marked):
        raise PluginError(f"Attention '{name}': size=True marks one option, a whole number; here it marks"
                          f" {', '.join(marked)}.")
    impls = module.IMPLS
    if not isinstance(impls, tuple) or not impls or not all(isinstance(i, str) for i in impls):
        raise PluginError(f"Attention '{name}': IMPLS must be a tuple of names, such as (\"eager\",).")
    form = getattr(module, "CAUSAL", "never")
    if form not in FORMS:
        raise PluginError(f"Attention '{name}': CAUSAL must be one of {', '.join(FORMS)}, not '{form}'.")
    _gates.parse(name, getattr(module, "INPUTS", {}))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, otherwise the dtype itself."""
    return torch.float32 if dtype in _HALF else dtype
