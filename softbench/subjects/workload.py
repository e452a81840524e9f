"""Workloads: a case becomes a module with its inputs, and one call to run, ready for any measure.

The mode decides what one `run` is: `forward` runs without a graph; `backward` differentiates the graph that `prepare`
built, with respect to the inputs that ask for it and all parameters; `forward_backward` does both in one. What kind of
thing is run, an attention or a whole model, is known to its `Subject` alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from softbench.case import Case, Shape, Spec
from softbench.contracts.attention import Cost
from softbench.errors import SoftbenchError, Unsupported

# The largest relative Frobenius distance from the same subject in float64 that still counts as the right answer. The
# inverse of a nearly singular kernel of landmarks costs float32 up to five of its seven digits.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-2, torch.float16: 3e-2, torch.bfloat16: 1e-1}

# What is differentiated, and the weights of its entries (None: it is a scalar), from a call's output and its target.
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


class WrongResult(SoftbenchError):
    """The subject ran, but its output is wrong or not finite, so that no number of it may be shown."""


class Subject:
    """What a case measures: everything about it that is not the same for attentions and for models.

    Attributes:
        spec: how the command named it.
        attention, model: names for records; of one that is not there, empty.
        options: those that records carry, as plain JSON values.
        impls: implementations that `--impl` may choose, fastest first, the plainest last.
        coords: further coordinates of its records.
        draws: whether training draws random numbers (stochastic depth), so that only evaluation can be repeated.
    """

    spec: Spec
    attention: str = ""
    model: str = ""
    options: dict[str, Any]
    impls: tuple[str, ...] = ()
    coords: dict[str, Any]
    draws: bool = False

    def check(self, case: Case) -> None:
        """Raise UsageError where the case cannot be asked for at all, so that nothing is run before it is told."""

    def resolve(self, impl: str, device: str, dtype: torch.dtype, shape: Shape | None = None) -> str:
        """The implementation that runs, at a shape if told. Raises Unsupported where none, or not that one, can."""
        raise NotImplementedError

    def note(self, case: Case) -> str:
        """What a reader of the number must know; mostly nothing."""
        return ""

    def expected(self, case: Case) -> Cost:
        """What one forward call should cost, before it is run."""
        raise NotImplementedError

    def closed_form(self, case: Case) -> float:
        """FLOPs of one forward call by formula. Raises Unsupported where there is none."""
        raise NotImplementedError

    def needed(self, case: Case) -> float:
        """Bytes that one call should hold at once, inputs included."""
        raise NotImplementedError

    def module(self, case: Case) -> nn.Module:
        """The module as `case.impl`, in float32 on the CPU, parameters drawn from torch's generator."""
        raise NotImplementedError

    def workload(self, case: Case, module: nn.Module) -> Workload:
        """The module, which is in place already, with its inputs beside it; on torch's meta device, shapes alone."""
        raise NotImplementedError

    def call(self, module: nn.Module, case: Case) -> Callable[..., Tensor]:
        """One forward, as a function of the workload's inputs."""
        raise NotImplementedError

    def probed(self, case: Case) -> tuple[Subject, Case]:
        """The smaller case whose result is compared with float64 before this case is trusted."""
        raise NotImplementedError


def weighted(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The objective of a tensor without a loss of its own: <output, target>, given by its gradient."""
    return output, target


@dataclass(frozen=True)
class Workload:
    """A case, built: `run(prepare())` is one call of what its mode says.

    Attributes:
        case: the case, with `impl` resolved.
        call: one forward, `call(*inputs)`.
        inputs: distinct tensors; gradients are taken by those that require them.
        output: the shape that the call must give.
        target: what `objective` compares the output with; empty in mode `forward`.
    """

    case: Case
    module: nn.Module
    call: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    output: Sequence[int]
    target: Tensor
    objective: Objective = weighted
    subject: Subject | None = None

    @property
    def device(self) -> torch.device:
        return self.inputs[0].device

    @property
    def sources(self) -> list[Tensor]:
        """The inputs that gradients are taken by."""
        return [tensor for tensor in self.inputs if tensor.requires_grad]

    @property
    def leaves(self) -> list[Tensor]:
        """What gradients are taken by: inputs, then parameters."""
        return self.sources + [p for p in self.module.parameters() if p.requires_grad]

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
            return self.call(*self.inputs)

    def _with_graph(self) -> tuple[Tensor, Tensor | None]:
        return self.objective(self.call(*self.inputs), self.target)

    def _backward(self, graph: tuple[Tensor, Tensor | None]) -> Any:
        return torch.autograd.grad(graph[0], self.leaves, graph[1], allow_unused=True)

    def _both(self, _: Any = None) -> Any:
        return self._backward(self._with_graph())

    def check(self) -> None:
        """One call of everything the mode runs.

        Raises:
            WrongResult: the output has another shape or dtype than it must, or an entry of the result is not finite.
        """
        output, dtype = self._forward(), self.inputs[0].dtype
        if not isinstance(output, Tensor):
            raise WrongResult(f"the output is a {type(output).__name__}; it must be one tensor")
        if list(output.shape) != list(self.output) or output.dtype != dtype:
            raise WrongResult(f"the output is {_kind(output.shape, output.dtype)}; it must be"
                              f" {_kind(self.output, dtype)}")
        results = {"output": output}
        if self.case.mode != "forward":
            gradients = self._both()
            results |= {f"gradient {i}": g for i, g in enumerate(gradients) if g is not None}
        for name, result in results.items():
            if not bool(result.isfinite().all()):
                raise WrongResult(f"the {name} is not finite")


def build(case: Case, subject: Subject, on: str | None = None) -> Workload:
    """The workload of a case. Seeded: the same case has the same inputs and parameters in every process.

    Args:
        on: another device than the case's to hold it: "meta", where shapes are enough.
    Raises:
        Unsupported: this subject, implementation, dtype and device do not go together.
        torch.OutOfMemoryError, RuntimeError, MemoryError: no memory for the inputs or the parameters.
    """
    dtype = getattr(torch, case.dtype)
    case = replace(case, impl=subject.resolve(case.impl, torch.device(case.device).type, dtype, case.shape))
    module = seeded_module(case, subject).to(device=on or case.device, dtype=dtype)
    return subject.workload(case if on is None else replace(case, device=on), module.train(case.mode != "forward"))


def seeded_module(case: Case, subject: Subject) -> nn.Module:
    """The subject's module with the parameters that the case's seed gives, in float32 on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        return subject.module(case)


def relative_error(result: Tensor, truth: Tensor) -> float:
    """||result - truth||_F / ||truth||_F in float64; 0 where both vanish."""
    result, truth = wide(result), wide(truth)
    scale, distance = float(truth.norm()), float((result - truth).norm())
    return distance / scale if scale else distance


def probe(case: Case, subject: Subject) -> None:
    """Compare a case with its plainest implementation in float64, on a smaller case of the same kind.

    Both get the same inputs, rounded to the case's dtype. In training modes the gradients are compared too, at ten
    times the tolerance: those of the inputs one by one, those of all parameters as one vector, as a gradient that is
    zero by construction (of a bias before a normalisation) has no digits of its own.

    Raises:
        WrongResult: further apart than `tolerance` allows, beside what the dtype cannot represent.
    """
    small = build(case, subject)
    if subject.draws:
        small.module.eval()
    small.check()
    oracle = _in_float64(small, subject)
    if oracle is None:
        return
    allowed = tolerance(small.inputs[0])
    than = f"'{oracle.case.impl}'" if oracle.case.impl else "the same"
    _compare("output", [small._forward()], [oracle._forward()], allowed, than)
    if case.mode != "forward":
        mine, truth, count = small._both(), oracle._both(), len(small.sources)
        for one, other in zip(mine[:count], truth[:count], strict=True):
            _compare("gradient", [one], [other], 10 * allowed, than)
        _compare("gradient by the parameters", mine[count:], truth[count:], 10 * allowed, than)


def tolerance(like: Tensor) -> float:
    """The relative error allowed on a tensor's dtype and device; TF32 has the digits of float16."""
    tf32 = like.is_cuda and like.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    return TOLERANCE[torch.float16 if tf32 else like.dtype]


def wide(tensor: Tensor) -> Tensor:
    """The tensor on the CPU, in float64 if it is of floating point, and outside any graph."""
    tensor = tensor.detach().cpu()
    return tensor.double() if tensor.is_floating_point() else tensor


def _in_float64(built: Workload, subject: Subject) -> Workload | None:
    """The same inputs and parameters in the plainest implementation that runs in float64 on the CPU."""
    try:
        impl = subject.resolve(subject.impls[-1] if subject.impls else "auto", "cpu", torch.float64)
    except Unsupported:
        return None
    case = replace(built.case, impl=impl, dtype="float64", device="cpu")
    module = seeded_module(case, subject).double().train(built.module.training)
    module.load_state_dict({name: wide(t) for name, t in built.module.state_dict().items()}, strict=False)
    tensors = tuple(wide(t).requires_grad_(t.requires_grad) for t in built.inputs)
    return replace(built, case=case, module=module, call=subject.call(module, case), inputs=tensors,
                   target=wide(built.target))


def _compare(what: str, results: Iterable[Tensor | None], truths: Iterable[Tensor | None], allowed: float,
             than: str) -> None:
    """Raise WrongResult unless ||result - truth|| <= allowed ||truth|| + what the result's dtype cannot represent.

    Several tensors count as one vector; a pair in which one does not exist is left out.
    """
    pairs = [(one, other) for one, other in zip(results, truths, strict=True) if one is not None and other is not None]
    if not pairs:
        return
    distance = math.hypot(*(float((wide(one) - other).norm()) for one, other in pairs))
    scale = math.hypot(*(float(other.norm()) for _, other in pairs))
    dtype = pairs[0][0].dtype
    unseen = torch.finfo(dtype).tiny * sum(one.numel() for one, _ in pairs) ** 0.5
    if not distance <= allowed * scale + unseen:
        kind = str(dtype).removeprefix("torch.")
        raise WrongResult(f"the {what} is {distance / scale if scale else distance:.1%} away from {than} in float64"
                          f" (allowed for {kind}: {allowed:.1%})")


def _nothing() -> None:
    return None


def _kind(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{list(shape)} {str(dtype).removeprefix('torch.')}"
