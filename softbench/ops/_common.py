"""What all primitives share: the dtype that arithmetic is done in, and the refusal of second derivatives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """x in float32 if it is in half precision, otherwise x itself."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def needs_grad(*tensors: Tensor) -> bool:
    """Whether autograd will ask for a backward of these."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Make the backward of an autograd.Function refuse to be differentiated.

    torch's own `once_differentiable` lets the second derivative be silently zero where the incoming gradient does not
    require one itself, as in a gradient penalty.
    """
    @functools.wraps(backward)
    def refusing(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("This operation has no second derivative: call backward without create_graph=True, "
                               "or use the implementation 'reference'.")
        return backward(ctx, *gradients)

    return refusing
