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

# The largest relative Frobenius distance from the same attention in float64 that still counts as the right answer. The
# inverse of a nearly singular kernel of landmarks costs float32 up to five of its seven digits.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-2, torch.float16: 3e-2, torch.bfloat16: 1e-1}
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
    result, truth = _wide(result), _wide(truth)
    scale, distance = float(truth.norm()), float((result - truth).norm())
    return distance / scale if scale else distance


def probe(case: Case, attention: Attention) -> None:
    """Compare a case's attention with its plainest implementation in float64, on inputs of the same family.

    The inputs are at most 1,024 tokens of at most two samples and two heads, the same in both, rounded to the case's
    dtype. In training modes the gradients are compared too, at ten times the tolerance.

    Raises:
        WrongResult: further apart than `tolerance` allows, beside what the dtype cannot represent.
    """
    shape = case.shape
    rows = min(shape.rows, 32)
    small = replace(shape, batch=min(shape.batch, 2), heads=min(shape.heads, 2), rows=rows,
                    cols=min(shape.cols, _PROBE_TOKENS // rows))
    workload = build(replace(case, shape=small), attention)
    workload.check()
    oracle = _in_float64(workload)
    if oracle is None:
        return
    allowed = tolerance(workload.q)
    _compare("output", workload._forward(), oracle._forward(), allowed, oracle.case.impl)
    if case.mode != "forward":
        for mine, truth in zip(workload._both(), oracle._both(), strict=True):
            if mine is not None and truth is not None:
                _compare("gradient", mine, truth, 10 * allowed, oracle.case.impl)


def tolerance(like: Tensor) -> float:
    """The relative error allowed on a tensor's dtype and device; TF32 has the digits of float16."""
    tf32 = like.is_cuda and like.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return TOLERANCE[torch.float16 if tf32 else like.dtype]


def _in_float64(workload: Workload) -> Workload | None:
    """The same inputs and parameters in the plainest implementation that runs in float64 on the CPU."""
    attention = workload.attention
    try:
        impl = attention.resolve(attention.module.IMPLS[-1], "cpu", torch.float64)
    except Unsupported:
        return None
    module = seeded_module(workload.case, attention, impl).double()
    module.load_state_dict({name: _wide(t) for name, t in workload.module.state_dict().items()}, strict=False)
    q, v, cotangent = (_wide(t) for t in (workload.q, workload.v, workload.cotangent))
    k = q if workload.k is workload.q else _wide(workload.k)
    for tensor in (q, k, v):
        tensor.requires_grad_(workload.q.requires_grad)
    case = replace(workload.case, impl=impl, dtype="float64", device="cpu")
    return Workload(case, attention, module.train(workload.module.training), q, k, v, cotangent)


def _wide(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def _compare(what: str, result: Tensor, truth: Tensor, allowed: float, impl: str) -> None:
    """Raise WrongResult unless ||result - truth|| <= allowed ||truth|| + what the result's dtype cannot represent."""
    unseen = torch.finfo(result.dtype).tiny * result.numel() ** 0.5
    distance = float((_wide(result) - truth).norm())
    if not distance <= allowed * float(truth.norm()) + unseen:
        kind = str(result.dtype).removeprefix("torch.")
        raise WrongResult(f"the {what} is {relative_error(result, truth):.1%} away from '{impl}' in float64 (allowed"
                          f" for {kind}: {allowed:.1%})")


def _nothing() -> None:
    return None


def _kind(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
