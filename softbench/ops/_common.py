"""What all primitives share: the dtype that arithmetic is done in, with autocast too, and no second derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def widened(x: Tensor) -> Tensor:
    """x in float32 if it is in half precision, otherwise x itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def outside_autocast(device: str) -> AbstractContextManager[object]:
    """A block that autocast leaves alone: kernels and their inverses do not survive products in half precision."""
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def uncast(operation: Callable[P, R]) -> Callable[P, R]:
    """Make an operation on tensors of one device compute as if there were no autocast."""
    @functools.wraps(operation)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        with outside_autocast(device):
            return operation(*args, **kwargs)

    return alone


def needs_grad(*tensors: Tensor) -> bool:
    """Whether autograd will ask for a backward of these."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def is_traced() -> bool:
    """Whether torch.compile or torch.jit.trace is looking on, which see through no hand-written backward."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make the backward of an autograd.Function refuse to be differentiated, and compute as if without autocast.

    torch's own `once_differentiable` lets the second derivative be silently zero where the incoming gradient does not
    require one itself, as in a gradient penalty.
    """
    @functools.wraps(backward)
    def refusing(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("This operation has no second derivative: call backward without create_graph=True, "
                               "or use its plainest implementation ('reference', 'math'), where it has one.")
        with outside_autocast(next(g.device.type for g in gradients if g is not None)):
            return backward(ctx, *gradients)

    return refusing
