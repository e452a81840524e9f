"""Workloads: a case becomes a module with its inputs, and one call to run, ready for any measure.

The mode decides what one `run` is: `forward` runs without a graph; `backward` differentiates the graph that `prepare`
built, with respect to the inputs that ask for it and all parameters; `forward_backward` does both in one. What kind of
thing is run, an attention or a whole model, is known to its `Subject` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from softbench import dtypes
from softbench.case import Case, Shape, Spec
from softbench.contracts.attention import Cost
from softbench.dtypes import name_of
from softbench.errors import SoftbenchError, text
from softbench.machine import device
from softbench.processes.state import Disturbed

# What is differentiated, and the weights of its entries (None: it is a scalar), from a call's output and its target.
Objective = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]


class WrongResult(SoftbenchError):
    """The subject ran, but its output is wrong or not finite, so that no number of it may be shown."""


class Subject:
    """Answers for what a case measures: everything that is not the same for attentions and for models.

    Attributes:
        spec: how the command named it.
        attention, model: names for records; of one that is not there, empty.
        options: those that records carry, as plain JSON values.
        impls: implementations that `--impl` may choose, fastest first, the plainest last.
        coords: further coordinates of its records.
        draws: whether training draws random numbers (stochastic depth), so that only evaluation can be repeated.
        disturbance: what its file changed of this process when it was imported; "" for nothing.
    """

    spec: Spec
    attention: str = ""
    model: str = ""
    options: dict[str, Any]
    impls: tuple[str, ...] = ()
    coords: dict[str, Any]
    draws: bool = False
    disturbance: str = ""

    def check(self, case: Case) -> None:
        """Raise UsageError where the case cannot be asked for at all, so that nothing is run before it is told."""

    def resolve(self, impl: str, device: str, dtype: torch.dtype, shape: Shape | None = None) -> str:
        """The implementation that runs, at a shape if told. Raises Unsupported where none, or not that one, can."""
        raise NotImplementedError

    def note(self, case: Case) -> str:
        """Tell a reader of the number what he must know; mostly nothing."""
        return ""

    def expected(self, case: Case) -> Cost:
        """Anticipate the cost of one forward call, before it is run."""
        raise NotImplementedError

    def closed_form(self, case: Case) -> float:
        """FLOPs of one forward call by formula. Raises Unsupported where there is none."""
        raise NotImplementedError

    def avoidable(self, case: Case) -> float:
        """FLOPs within `closed_form` that an implementation may leave out, so that no floor rests on them."""
        return 0.0

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
        """Return one forward, as a function of the workload's inputs."""
        raise NotImplementedError

    def probed(self, case: Case) -> tuple[Subject, Case]:
        """The smaller case whose result is compared with float64 before this case is trusted."""
        raise NotImplementedError

    def longer(self, case: Case) -> Iterator[Case]:
        """Cases between this one and the one that is probed, the longest first, for which float64 may be affordable."""
        return iter(())

    def mixes_samples(self, case: Case) -> bool:
        """True where the result of one sample may depend on others of its batch."""
        return False


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
        """Gradients are taken by these: inputs, then parameters."""
        return self.sources + [p for p in self.module.parameters() if p.requires_grad]

    @property
    def prepare(self) -> Callable[[], Any]:
        """Do what comes before each `run` and is not measured: the graph, in `backward`; nothing otherwise."""
        return self._with_graph if self.case.mode == "backward" else _nothing

    @property
    def run(self) -> Callable[[Any], Any]:
        """One measured call, given what `prepare` returned."""
        runs: dict[str, Callable[[Any], Any]] = {
            "forward": self._forward, "backward": self._backward, "forward_backward": self._both}
        return runs[self.case.mode]

    def anew(self, inputs: Sequence[Tensor], sample: int | None = None) -> Workload:
        """The same subject as nothing has called it yet, on copies of other inputs; if told, of one of the samples.

        Its module is then built for a batch of one.
        """
        assert self.subject is not None
        case, subject, part = self.case, self.subject, slice(None)
        if sample is not None:
            part = slice(sample, sample + 1)
            case = replace(case, shape=replace(case.shape, batch=1))
        fresh = replace(self, case=case, target=self.target[part])
        if subject.model:
            fresh = replace(build(replace(case, impl=case.impl or "auto"), subject), target=fresh.target)
        else:
            module = seeded_module(case, subject).to(device=self.device, dtype=self.inputs[0].dtype)
            fresh = replace(fresh, module=module, call=subject.call(module, case), output=self.target[part].shape)
        fresh.module.train(self.module.training)
        copies = tuple(new[part].detach().clone().requires_grad_(old.requires_grad)
                       for new, old in zip(inputs, self.inputs, strict=True))
        return replace(fresh, inputs=copies)

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
        before = [tensor.detach().clone() for tensor in self.inputs]
        output = self._working()
        self.check_output(output)
        if self.case.mode != "forward":
            self.check_gradients(self._both())
        unwritten(self.inputs, before)

    def check_output(self, output: Any) -> None:
        """Raise WrongResult unless the output is what it must be, and finite."""
        dtype = self.inputs[0].dtype
        _check_plain("output", output, self.device)
        if list(output.shape) != list(self.output) or output.dtype != dtype:
            raise WrongResult(f"the output is {_kind(output.shape, output.dtype)}; it must be"
                              f" {_kind(self.output, dtype)}")
        _check_finite("output", output)

    def check_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Raise WrongResult unless each gradient, where there is one, is what it must be, and finite."""
        for number, (gradient, leaf) in enumerate(zip(gradients, self.leaves, strict=True)):
            if gradient is not None:
                _check_plain(f"gradient {number}", gradient, leaf.device)
                _check_finite(f"gradient {number}", gradient)

    def _working(self) -> Tensor:
        """The output of a call that runs operators of torch, or gives new memory. Raises WrongResult otherwise."""
        try:
            with _Working() as working:
                output = self._forward()
        except NotImplementedError:  # operators of a higher order that cannot be watched
            return self._forward()
        if not working.count and isinstance(output, Tensor):
            old = {_address(tensor) for tensor in (output, *self.inputs)}
            if _address(output) in {_address(t) for t in self.inputs} or _address(self._forward()) in old:
                raise WrongResult("a call runs no operator and gives memory that was there before: nothing is computed")
        return output


class _Working(TorchDispatchMode):
    """Counts operators that do more than look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def unwritten(inputs: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Raise WrongResult where inputs are not, bit for bit, what they were before a call."""
    for number, (now, then) in enumerate(zip(inputs, before, strict=True)):
        if now.shape != then.shape or not torch.equal(now.detach(), then):
            raise WrongResult(f"it writes into its inputs: input {number} is not what it was before the call")


def build(case: Case, subject: Subject, on: str | None = None) -> Workload:
    """The workload of a case. Seeded: the same case has the same inputs and parameters in every process.

    Args:
        on: another device than the case's to hold it: "meta", where shapes are enough.
    Raises:
        Unsupported: this subject, implementation, dtype and device do not go together.
        torch.OutOfMemoryError, RuntimeError, MemoryError: no memory for the inputs or the parameters.
    """
    if subject.disturbance:
        raise Disturbed(f"when its file was imported, {subject.disturbance}")
    dtype = dtypes.of(case.dtype)
    case = replace(case, impl=subject.resolve(case.impl, device.kind(case.device), dtype, case.shape))
    module = seeded_module(case, subject).to(device=on or case.device, dtype=dtype)
    return subject.workload(case if on is None else replace(case, device=on), module.train(case.mode != "forward"))


def seeded_module(case: Case, subject: Subject) -> nn.Module:
    """The subject's module with the parameters that the case's seed gives, in float32 on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        return subject.module(case)


def _check_plain(what: str, tensor: Any, device: torch.device) -> None:
    if not isinstance(tensor, Tensor):
        raise WrongResult(f"the {what} is a {type(tensor).__name__}; it must be one tensor")
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided:
        raise WrongResult(f"the {what} is a {type(tensor).__name__} of layout {name_of(tensor.layout)}; it must be a"
                          " plain tensor, computed when the call returns")
    if tensor.device != device:
        raise WrongResult(f"the {what} is on {tensor.device}; it must be on {device}")


def _check_finite(what: str, tensor: Tensor) -> None:
    if not bool(tensor.isfinite().all()):
        raise WrongResult(f"the {what} is not finite")


def _nothing() -> None:
    return None


def _kind(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{list(shape)} {name_of(dtype)}"


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def is_out_of_memory(error: BaseException) -> bool:
    """True where an exception means that memory ran out, on the CPU or on a GPU."""
    message = text(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in message for words in ("out of memory", "can't allocate memory", "bad_alloc")))
