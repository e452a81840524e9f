"""The two counters of the FLOP audit, torch's FlopCounterMode and fvcore, made to refuse what they cannot see.

Both run the module once on the tensors given, which may be meta tensors: these have shapes and no data, so that any
size costs nothing. torch's counter sees each operator as it is dispatched; fvcore reads a torch.jit trace, in which
an operator stands as it was called. What either lacks is supplied from `convention.py`, and said.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from softbench.errors import SoftbenchError
from softbench.measures.flops.convention import FORMULAS, Formula, Sizes, is_free

_DEPRECATED = r"(?s).*torch\.jit"  # as newer versions of torch call it; fvcore scripts when imported, and traces
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=_DEPRECATED)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import bmm_flop_jit, matmul_flop_jit


class Uncounted(SoftbenchError):
    """The module runs an operator whose work the counter cannot see."""


@dataclass(frozen=True)
class Count:
    """FLOPs in all and by operator, the operators whose formula softbench supplied, and remarks."""

    flops: float
    operators: dict[str, float]
    supplied: list[str]
    remarks: list[str]


def _again_if_formulas_came(count: Callable[..., Count]) -> Callable[..., Count]:
    """Counts once more where the module, in its first call, imports operators that bring formulas of their own."""

    @functools.wraps(count)
    def counting(module: nn.Module, inputs: tuple[Tensor, ...]) -> Count:
        before = len(flop_registry)
        try:
            counted = count(module, inputs)
        except Uncounted:
            if len(flop_registry) == before:
                raise
        else:
            if len(flop_registry) == before:
                return counted
        return count(module, inputs)

    return counting


@_again_if_formulas_came
def by_torch(module: nn.Module, inputs: tuple[Tensor, ...]) -> Count:
    """Count by torch.utils.flop_counter what `module(*inputs)` does.

    Raises:
        Uncounted: an operator that neither the counter nor the convention knows, or a Triton kernel.
    """
    supplied = {getattr(torch.ops.aten, name): _for_torch(formula) for name, formula in FORMULAS.items()
                if getattr(torch.ops.aten, name) not in flop_registry}
    watcher = _Watcher()
    counter = FlopCounterMode(display=False, custom_mapping=supplied)
    with torch.no_grad(), _triton_refused(), watcher, counter:
        module(*inputs)
    counted = counter.get_flop_counts().get("Global", {})
    unseen = {op for op in watcher.operators if op not in counted and op not in flop_registry and op not in supplied
              and not (_namespace(op) == "aten" and is_free(_short(op)))}
    _refuse("torch's counter", map(str, unseen))
    operators = {_short(op): float(flops) for op, flops in counted.items()}
    return Count(sum(operators.values()), operators, sorted(_short(op) for op in counted if op in supplied), [])


class _Watcher(TorchDispatchMode):
    """Notes every operator that reaches it; around the counter, those are the ones left after its decompositions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators.add(func.overloadpacket)
        return func(*args, **(kwargs or {}))


def _for_torch(formula: Formula) -> Callable[..., float]:
    def count(*shapes: Any, out_shape: Any = None, **_: Any) -> float:
        first = out_shape[0] if out_shape and isinstance(out_shape[0], torch.Size) else out_shape
        return formula([s if isinstance(s, torch.Size) else None for s in shapes], first)

    return count


def _namespace(packet: Any) -> str:
    return str(packet).partition(".")[0]


def _short(packet: Any) -> str:
    return str(packet).rpartition(".")[2]


@_again_if_formulas_came
def by_fvcore(module: nn.Module, inputs: tuple[Tensor, ...]) -> Count:
    """Twice what fvcore counts for `module(*inputs)`, as fvcore counts a multiply-add once.

    A custom autograd function is one opaque node of a trace; here its forward is traced in its place. fvcore's own
    entries for normalisation, pooling and interpolation are zeroed, as the convention has it.

    Raises:
        Uncounted: an operator that neither the counter nor the convention knows, or a Triton kernel.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_DEPRECATED)
        supplied: set[str] = set()
        entered: set[str] = set()
        analysis = FlopCountAnalysis(module, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        for name, formula in FORMULAS.items():
            analysis.set_op_handle(f"aten::{name}", _for_fvcore(name, formula, supplied))
        for name in _FREE_IN_FVCORE:
            analysis.set_op_handle(f"aten::{name}", _nothing)  # None would leave fvcore's own handle in place
        analysis.set_op_handle("aten::matmul", _matmul(supplied))
        for packet in filter(_is_ours_to_count, flop_registry):
            analysis.set_op_handle(str(packet).replace(".", "::"), _registered(packet, supplied))
        analysis.set_op_handle("aten::bmm", _bmm)
        with (torch.no_grad(), _triton_refused(), _transparent_functions(entered),
              _Convolutions() if inputs[0].is_meta else contextlib.nullcontext()):
            macs = analysis.by_operator()
    unseen = [op for op in analysis.unsupported_ops()
              if not (op.startswith("aten::") and is_free(op.removeprefix("aten::")))]
    _refuse("fvcore", unseen)
    operators = {op: 2.0 * float(count) for op, count in macs.items() if count}
    remarks = [f"traced inside {', '.join(sorted(entered))}"] if entered else []
    return Count(sum(operators.values()), operators, sorted(supplied), remarks)


_FREE_IN_FVCORE = ("batch_norm", "group_norm", "layer_norm", "instance_norm", "upsample_nearest2d",
                   "upsample_bilinear2d", "adaptive_avg_pool2d", "grid_sampler")
_Handle = Callable[[list[Any], list[Any]], float]


def _nothing(inputs: list[Any], outputs: list[Any]) -> float:
    return 0.0


def _sizes(value: Any) -> Sizes | None:
    sizes: Sizes | None = value.type().sizes() if value.isCompleteTensor() else None
    return sizes


def _for_fvcore(name: str, formula: Formula, supplied: set[str]) -> _Handle:
    def count(inputs: list[Any], outputs: list[Any]) -> float:
        supplied.add(name)
        return formula([_sizes(v) for v in inputs], _sizes(outputs[0]) or ()) / 2

    return count


def _is_ours_to_count(packet: Any) -> bool:
    """True where it is an operator outside torch whose package has registered a formula with torch's counter."""
    return packet in flop_registry and _namespace(packet) != "aten"


def _registered(packet: Any, supplied: set[str]) -> _Handle:
    def count(inputs: list[Any], outputs: list[Any]) -> float:
        supplied.add(_short(packet))
        values = [_sizes(v) if v.isCompleteTensor() else v.toIValue() for v in inputs]
        return float(flop_registry[packet](*values, out_val=_sizes(outputs[0]))) / 2

    return count


def _matmul(supplied: set[str]) -> _Handle:
    """fvcore's own count, but for vectors, which it cannot take, and a left factor that is broadcast, which it counts
    once instead of once a matrix on the right."""
    def count(inputs: list[Any], outputs: list[Any]) -> float:
        left, right, output = (_sizes(v) or () for v in (*inputs, outputs[0]))
        if len(left) > 1 and len(right) > 1 and prod(left[:-2]) == prod(output[:-2]):
            return float(matmul_flop_jit(inputs, outputs))
        supplied.add("matmul")
        return float(prod(output) * left[-1])

    return count


def _bmm(inputs: list[Any], outputs: list[Any]) -> float:
    """fvcore's own count, but with `out=`, a third input that it does not take."""
    return float(bmm_flop_jit(inputs[:2], outputs))


class _Convolutions(TorchFunctionMode):
    """Lets convolutions on meta tensors be traced: each becomes the node `aten::_convolution`, as on a device.

    torch's shape rule for them is written in Python, and a trace turns the sizes it reads into tensors, which it does
    not take. A trace belongs to a thread, so the rule is run in another.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.conv1d, torch.conv2d, torch.conv3d):
            return self._convolve(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    @staticmethod
    def _convolve(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                  dilation: Any = 1, groups: int = 1) -> Tensor:
        axes = weight.dim() - 2
        stride, padding, dilation = ([n] * axes if isinstance(n, int) else n for n in (stride, padding, dilation))
        with _InAnotherThread():  # type: ignore[no-untyped-call]
            return torch._convolution(input, weight, bias, stride, padding, dilation, False, [0] * axes, groups,
                                      False, False, True, True)


class _InAnotherThread(TorchDispatchMode):
    """Runs each operator in a thread of its own, without gradients."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._convolution.default:  # older versions of torch have no shape rule for it
            func, args = torch.ops.aten.convolution.default, args[:9]
        with ThreadPoolExecutor(1, initializer=torch.set_grad_enabled, initargs=(False,)) as worker:
            return worker.submit(func, *args, **(kwargs or {})).result()


@contextlib.contextmanager
def _transparent_functions(entered: set[str]) -> Iterator[None]:
    """Let `apply` of every autograd function run its forward as plain operators, as no gradient is asked for."""

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        entered.add(cls.__name__)
        if cls.setup_context is not torch.autograd.Function.setup_context:
            return cls.forward(*args, **kwargs)
        context: Any = torch.autograd.function.FunctionCtx()
        context.needs_input_grad = (False,) * len(args)
        return cls.forward(context, *args, **kwargs)

    with _replaced(torch.autograd.Function, "apply", classmethod(apply)):
        yield


_launching: ContextVar[bool] = ContextVar("_launching", default=False)


class _CountedLaunch(TorchFunctionMode):
    """Lets an operator that has a formula launch its Triton kernels."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not _is_ours_to_count(getattr(func, "overloadpacket", func)):
            return func(*args, **(kwargs or {}))
        token = _launching.set(True)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            _launching.reset(token)


@contextlib.contextmanager
def _triton_refused() -> Iterator[None]:
    """Raise where a Triton kernel is launched: no counter sees it, and on meta tensors it would read address 0."""
    if "triton" not in sys.modules:
        yield
        return
    from triton.runtime.jit import KernelInterface

    launch = KernelInterface.__getitem__

    def refuse(kernel: Any, grid: Any) -> Any:
        if not _launching.get():
            raise Uncounted(f"no counter sees the Triton kernel {getattr(kernel, '__name__', kernel)}")
        return launch(kernel, grid)

    with _replaced(KernelInterface, "__getitem__", refuse), _CountedLaunch():
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _refuse(counter: str, operators: Any) -> None:
    names: Sequence[str] = sorted(operators)
    if names:
        raise Uncounted(f"{counter} cannot see {', '.join(names)}")
