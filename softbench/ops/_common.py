"""All primitives share this: the dtype that arithmetic is done in, with autocast too, and no second derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from softbench import dtypes
from softbench.machine.device import KINDS

P = ParamSpec("P")
R = TypeVar("R")
HALF = tuple(map(dtypes.of, dtypes.HALF))


def widened(x: Tensor) -> Tensor:
    """x in float32 if it is in half precision, otherwise x itself."""
    return x.float() if x.dtype in HALF else x


def outside_autocast(device: str) -> AbstractContextManager[object]:
    """A block that autocast leaves alone: kernels and their inverses do not survive products in half precision."""
    if device in KINDS and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def uncast(operation: Callable[P, R]) -> Callable[P, R]:
    """Make an operation on tensors of one device compute as if there were no autocast, in its backward too."""
    @functools.wraps(operation)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        return run_uncast(operation, *args, **kwargs)

    return alone


def run_uncast(operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call an operation, or a module, as if there were no autocast, in its backward too.

    torch runs a backward under the autocast that it is called in, where each product of a float32 graph is rounded.
    Under autocast an operation therefore has a graph of its own, which its backward goes through outside.
    """
    parts = (operation, *args, *kwargs.values())
    device = next((a.device.type for a in parts if isinstance(a, Tensor)), "cpu")
    if is_traced() or not (device in KINDS and torch.is_autocast_enabled(device)):
        with outside_autocast(device):
            return operation(*args, **kwargs)
    weights = [p for a in parts if isinstance(a, nn.Module) for p in a.parameters()]
    tensors = [*dict.fromkeys(a for a in parts if isinstance(a, Tensor)), *weights]
    with outside_autocast(device):
        if not needs_grad(*tensors):
            return operation(*args, **kwargs)
        result: R = _Alone.apply(operation, args, kwargs, len(tensors) - len(weights), *tensors)
        return result


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make the backward of an autograd.Function refuse to be differentiated, and compute as if without autocast.

    torch's own `once_differentiable` lets the second derivative be silently zero where the incoming gradient does not
    require one itself, as in a gradient penalty.
    """
    @functools.wraps(backward)
    def refusing(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("This operation has no second derivative: call backward without create_graph=True, "
                               "or use its plainest implementation ('reference', 'math') where it has one, outside "
                               "autocast.")
        with outside_autocast(next(g.device.type for g in gradients if g is not None)):
            return backward(ctx, *gradients)

    return refusing


class _Alone(torch.autograd.Function):
    """A call with a graph of its own, from tensors of the outer one, and parameters as they are, to the output."""

    @staticmethod
    def forward(ctx: Any, operation: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any], inputs: int,
                *tensors: Tensor) -> Tensor:
        leaves = [t.detach().requires_grad_(t.requires_grad) for t in tensors[:inputs]]
        inner: dict[int, Any] = {id(t): leaf for t, leaf in zip(tensors, leaves, strict=False)}
        with torch.enable_grad():
            output = operation(*(inner.get(id(a), a) for a in args),
                               **{name: inner.get(id(a), a) for name, a in kwargs.items()})
        ctx.output, ctx.leaves = output, (*leaves, *tensors[inputs:])
        return output.detach()

    @staticmethod
    @once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [leaf for leaf in ctx.leaves if leaf.requires_grad]
        keep_graph = torch._C._autograd._get_current_graph_task_keep_graph()  # as retain_graph was given
        gradients = iter(torch.autograd.grad(ctx.output, leaves, dy, retain_graph=keep_graph, allow_unused=True))
        return None, None, None, None, *(next(gradients) if leaf.requires_grad else None for leaf in ctx.leaves)


def needs_grad(*tensors: Tensor) -> bool:
    """True where autograd will ask for a backward of these."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def in_forward_mode() -> bool:
    """True where derivatives are being taken forwards, by dual tensors or `torch.func.jvp`."""
    return forward_ad._current_level >= 0  # what both set; to ask each tensor takes as long as a small operation


def is_traced() -> bool:
    """True where torch.compile or torch.jit.trace is looking on, which see through no hand-written backward."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
