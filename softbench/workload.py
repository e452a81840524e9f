"""Workloads: a case becomes a module with its inputs, and one call to run, ready for any measure.

q, k, v are [B, H, N, D]. The mode decides what one `run` is: `forward` runs without a graph; `backward` differentiates
the graph that `prepare` built, with respect to q, k, v and all parameters; `forward_backward` does both in one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from softbench import inputs
from softbench.attention._contract import Attention
from softbench.case import Case
from softbench.errors import SoftbenchError, Unsupported

# The largest relative Frobenius distance from the same attention in float64 that still counts as the right answer.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
_PROBE_TOKENS = 1024


class WrongResult(SoftbenchError):
    """The attention ran, but its output is wrong or not finite, so that no number of it may be shown."""


@dataclass(frozen=True)
class Workload:
    """A case, built: `run(prepare())` is one call of what its mode says.

    Attributes:
        case: the case, with `impl` resolved.
        leaves: the tensors that gradients are taken by: q (k) v and the parameters.
    """

    case: Case
    attention: Attention
    module: nn.Module
    q: Tensor
    k: Tensor
    v: Tensor
    cotangent: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        distinct = [self.q, self.v] if self.k is self.q else [self.q, self.k, self.v]
        return distinct + [p for p in self.module.parameters() if p.requires_grad]

    @property
    def prepare(self) -> Callable[[], Any]:
        """What comes before each `run` and is not measured: the graph, in `backward`; nothing otherwise."""
        return self._with_graph if self.case.mode == "backward" else _nothing

    @property
    def run(self) -> Callable[[Any], Any]:
        """One measured call, given what `prepare` returned."""
        runs: dict[str, Callable[[Any], Any]] = {
            "forward": self._forward, "backward": self._backward, "forward_backward": self._both}
        return runs[self.case.mode]

    def _forward(self, _: Any = None) -> Tensor:
        with torch.no_grad():
            return self._with_graph()

    def _with_graph(self) -> Tensor:
        output: Tensor = self.module(self.q, self.k, self.v, grid=self.case.shape.grid)
        return output

    def _backward(self, output: Tensor) -> Any:
        return torch.autograd.grad(output, self.leaves, self.cotangent, allow_unused=True)

    def _both(self, _: Any = None) -> Any:
        return self._backward(self._with_graph())

    def check(self) -> None:
        """One call of everything the mode runs.

        Raises:
            WrongResult: the output has another shape or dtype than v, or an entry of the result is not finite.
        """
        output = self._forward()
        if output.shape != self.v.shape or output.dtype != self.v.dtype:
            raise WrongResult(f"the output is {_kind(output)}; it must be {_kind(self.v)}")
        results = {"output": output}
        if self.case.mode != "forward":
            gradients = self._both()
            results |= {f"gradient {i}": g for i, g in enumerate(gradients) if g is not None}
        for name, result in results.items():
            if not bool(result.isfinite().all()):
                raise WrongResult(f"the {name} is not finite")


def build(case: Case, attention: Attention) -> Workload:
    """The workload of a case. Seeded: the same case has the same inputs and parameters in every process.

    Raises:
        Unsupported: this attention, implementation, dtype and device do not go together.
        torch.OutOfMemoryError, RuntimeError, MemoryError: no memory for the inputs or the parameters.
    """
    dtype = getattr(torch, case.dtype)
    device = torch.device(case.device)
    impl = attention.resolve(case.impl, device.type, dtype)
    case = replace(case, impl=impl)
    module = seeded_module(case, attention, impl).to(device=device, dtype=dtype)
    train = case.mode != "forward"
    q, k, v = (t.to(device=device, dtype=dtype) for t in inputs.tokens(case.inputs, case.shape, case.seed))
    if attention.module.SHARES_QK:
        k = q
    for tensor in (q, k, v):
        tensor.requires_grad_(train)
    generator = torch.Generator().manual_seed(case.seed + 1)
    cotangent = torch.randn(v.shape, generator=generator).to(v) if train else torch.empty(0)
    return Workload(case, attention, module.train(train), q, k, v, cotangent)


def seeded_module(case: Case, attention: Attention, impl: str) -> nn.Module:
    """The attention's module with the parameters that the case's seed gives, in float32 on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        return attention.build(case.shape, impl)


def relative_error(result: Tensor, truth: Tensor) -> float:
    """||result - truth||_F / ||truth||_F in float64; 0 where both vanish."""
    result, truth = result.detach().cpu().double(), truth.detach().cpu().double()
    scale, distance = float(truth.norm()), float((result - truth).norm())
    return distance / scale if scale else distance


def probe(case: Case, attention: Attention) -> None:
    """Compare the case's attention, on at most 1,024 tokens of one sample, with its plainest implementation in float64.

    Raises:
        WrongResult: further apart than the dtype's `TOLERANCE`.
    """
    shape = case.shape
    rows = min(shape.rows, 32)
    small = replace(shape, batch=1, heads=min(shape.heads, 2), rows=rows, cols=min(shape.cols, _PROBE_TOKENS // rows))
    workload = build(replace(case, shape=small, mode="forward"), attention)
    workload.check()
    q, k, v = (t.cpu().double() for t in (workload.q, workload.k, workload.v))
    try:
        oracle = attention.resolve(attention.module.IMPLS[-1], "cpu", torch.float64)
    except Unsupported:
        return
    module = seeded_module(workload.case, attention, oracle).double()
    module.load_state_dict({n: t.cpu().double() if t.is_floating_point() else t.cpu()
                            for n, t in workload.module.state_dict().items()}, strict=False)
    with torch.no_grad():
        truth = module.eval()(q, k, v, grid=small.grid)
        error = relative_error(workload.run(None), truth)
    if not error <= TOLERANCE[workload.q.dtype]:
        raise WrongResult(f"the output is {error:.1%} away from '{oracle}' in float64 (allowed for {case.dtype}:"
                          f" {TOLERANCE[workload.q.dtype]:.1%})")


def _nothing() -> None:
    return None


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
