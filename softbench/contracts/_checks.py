"""Every attention refuses inputs that do not fit each other, or the module, before any code of its own runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from softbench import dtypes
from softbench.case import Shape
from softbench.contracts import _gates
from softbench.contracts._gates import Gate
from softbench.errors import SoftbenchError, UsageError

_DTYPES = tuple(map(dtypes.of, dtypes.NAMES))


class Checks:
    """A forward pre-hook of the module that an attention built: one clear line instead of torch's own, or of a wrong
    result, as parameters for one head would silently serve all."""

    def __init__(self, name: str, module: nn.Module, shape: Shape, make: Callable[[Shape], nn.Module],
                 same_dim: bool, gates: Mapping[str, Gate]) -> None:
        self.name, self.shape, self.make, self.same_dim = name, shape, make, same_dim
        self.gates = gates
        self.anchor = _first_tensor(module)
        self.accepted: tuple[Any, ...] | None = None  # the kind of the last inputs, as calls are mostly alike

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return  # or each module would count as another compilation of this one frame
        q, k, v, grid, inputs = _bound(*args, **kwargs)
        held = getattr(self.anchor[0], self.anchor[1], q) if self.anchor else q
        kind = _kind(q, k, v, grid, held, *inputs.values())
        if kind != self.accepted:
            check_inputs(q, k, v, grid, self.same_dim)
            _gates.check(self.name, self.gates, q, inputs)
            self._check_weights(q, held)
            self.accepted = kind

    def _check_weights(self, q: Tensor, held: Tensor) -> None:
        """Raise UsageError where they are on another device, or for heads of other shapes."""
        if held.device != q.device:
            raise UsageError(f"The weights of this {self.name} are on {held.device}, and q, k, v on"
                             f" {q.device}: move one to the other, with .to(device).")
        if (q.shape[1], q.shape[3]) != (self.shape.heads, self.shape.head_dim):
            self._check_sizes(q.shape[1], q.shape[3])

    def _check_sizes(self, heads: int, head_dim: int) -> None:
        """Raise UsageError where the parameters for that many heads of that dim would have other shapes."""
        built, called = self._weights(self.shape), self._weights(replace(self.shape, heads=heads, head_dim=head_dim))
        if built != called:
            raise UsageError(f"This {self.name} was built for {self.shape.heads} heads of dim"
                             f" {self.shape.head_dim}, not {heads} of {head_dim}: its weights fit no other. Build"
                             " another.")

    def _weights(self, shape: Shape) -> dict[str, torch.Size]:
        """Shapes of what the attention's module would hold."""
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                return {name: t.shape for name, t in self.make(shape).state_dict().items()}
        except SoftbenchError:
            raise
        except Exception:  # a file of somebody's that cannot be built without numbers: its own forward will tell
            return {}


def check_inputs(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], same_dim: bool = False) -> None:
    """Raise UsageError unless q, k [B, H, N, D], v [B, H, N, E] and grid agree; with `same_dim`, unless E = D too."""
    if not (isinstance(q, Tensor) and isinstance(k, Tensor) and isinstance(v, Tensor)):
        raise UsageError(f"q, k, v must be torch tensors, not {', '.join(type(t).__name__ for t in (q, k, v))}.")
    if not q.dim() == k.dim() == v.dim() == 4:
        raise UsageError(f"q, k, v must be [batch, heads, tokens, dim]; got {_shapes(q, k, v)}.")
    if q.shape != k.shape or q.shape[:3] != v.shape[:3]:
        raise UsageError(f"q, k, v disagree in shape: {_shapes(q, k, v)}.")
    if same_dim and q.shape[3] != v.shape[3]:
        raise UsageError(f"This attention needs values of the same dim as its queries: {v.shape[3]}, not {q.shape[3]}.")
    if not q.dtype == k.dtype == v.dtype:
        raise UsageError(f"q, k, v must have one dtype, not {', '.join(map(_name, (q, k, v)))}: convert them, as with"
                         " k.to(q.dtype).")
    if not q.device == k.device == v.device:
        raise UsageError(f"q, k, v must be on one device, not {', '.join(str(t.device) for t in (q, k, v))}.")
    if q.dtype not in _DTYPES or 0 in q.shape[1:]:
        raise UsageError(f"q, k, v must hold floating-point numbers of at least one token, head and dim, not {_name(q)}"
                         f" of {tuple(q.shape)}.")
    if not (isinstance(grid, tuple | list) and len(grid) == 2) or isinstance(grid[0] * grid[1], float):
        raise UsageError(f"grid must be two whole numbers, rows and columns, not {grid!r}.")
    if grid[0] < 1 or grid[0] * grid[1] != q.shape[2]:
        raise UsageError(f"grid {grid[0]}x{grid[1]} does not hold {q.shape[2]} tokens.")


def _first_tensor(module: nn.Module) -> tuple[nn.Module, str] | None:
    """Where the first parameter is, or the first buffer that is saved; what is not saved moves with its inputs."""
    for owner in module.modules():
        kept = [name for name in owner._buffers if name not in owner._non_persistent_buffers_set]
        for name in (*owner._parameters, *kept):
            if getattr(owner, name) is not None:
                return owner, name
    return None


def _bound(q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int], **inputs: Any) -> tuple[Any, ...]:
    return q, k, v, grid, inputs


def _kind(q: Any, k: Any, v: Any, grid: Any, held: Any, *inputs: Any) -> tuple[Any, ...]:
    """All that decides whether inputs are right, but for the values of gates."""
    if not all(isinstance(tensor, Tensor) for tensor in (q, k, v, *inputs)):
        return ()
    return (q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, q.device, k.device, v.device, held.device, grid,
            *((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs))


def _name(tensor: Tensor) -> str:
    return dtypes.name_of(tensor.dtype)


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(str(tuple(t.shape)) for t in tensors)
