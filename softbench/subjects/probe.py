"""Probes: is the result of a case right, before any number of it is believed?

The yardstick is the subject's plainest implementation in float64 on the CPU, on the same inputs and parameters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from softbench import dtypes
from softbench.case import Case
from softbench.dtypes import FLOAT64, name_of
from softbench.errors import Unsupported
from softbench.machine import device
from softbench.subjects.workload import Subject, Workload, WrongResult, build, seeded_module

_ROWS = 64  # of a result that are looked at one by one, beside the whole


def relative_error(result: Tensor, truth: Tensor) -> float:
    """||result - truth||_F / ||truth||_F in float64; 0 where both vanish."""
    result, truth = wide(result), wide(truth)
    scale, distance = float(truth.norm()), float((result - truth).norm())
    return distance / scale if scale else distance


def probe(case: Case, subject: Subject) -> float:
    """Compare a case with its plainest implementation in float64, on a smaller case of the same kind.

    Both get the same inputs, rounded to the case's dtype, the oracle copies that were taken before any call. In
    training modes the gradients are compared too, at ten times the tolerance: those of the inputs one by one, those of
    all parameters as one vector, as a gradient that is zero by construction (of a bias before a normalisation) has no
    digits of its own. A module that draws numbers in training is compared in evaluation.

    Returns:
        Seconds that all of it took.
    Raises:
        WrongResult: further apart than `tolerance` allows, beside what the dtype cannot represent.
    """
    started = time.perf_counter()
    small = build(case, subject)
    oracle = _in_float64(small, subject)
    if subject.draws:
        small.module.eval()
    with Drawing(small.device) as drawing:
        small.check()
    if drawing.drew:
        small.module.eval()
    _check_memory(small)
    if not subject.mixes_samples(case):
        _check_samples(small)
    if oracle is not None:
        oracle.module.train(small.module.training)
        _compare_with(oracle, small)
    return time.perf_counter() - started


def probe_longer(case: Case, subject: Subject, seconds: float, taken: float) -> None:
    """`probe` once more, at the case's own length, or at the longest one that should not take longer than `seconds`.

    No length is trusted because a shorter one was right.

    Args:
        taken: seconds that the shorter probe took.
    Raises:
        WrongResult: as `probe`.
    """
    _, small = subject.probed(case)
    free = device.free(device.CPU)
    for longer in subject.longer(case):
        oracle = replace(longer, impl=subject.impls[-1] if subject.impls else "auto", dtype=FLOAT64, device="cpu")
        if taken * _growth(subject, small, oracle) <= seconds and (free is None or subject.needed(oracle) < free / 2):
            probe(longer, subject)
            return


def _growth(subject: Subject, small: Case, case: Case) -> float:
    """How many times more work a case should be than a smaller one; an oracle beside others may be quadratic."""
    tokens = case.shape.tokens / small.shape.tokens
    samples = case.shape.batch * case.shape.heads / (small.shape.batch * small.shape.heads)
    less, more = (subject.expected(replace(c, impl="auto")).flops for c in (small, case))
    by_flops = more / less if less > 0 else 0.0
    return max(by_flops, samples * (tokens**2 if len(subject.impls) > 1 else tokens))


def _compare_with(oracle: Workload, small: Workload) -> None:
    allowed = tolerance(small.inputs[0])
    than = f"'{oracle.case.impl}' in float64" if oracle.case.impl else "the same in float64"
    take_state(oracle, small)
    output = small._forward()
    with torch.enable_grad():  # unlike the call that is timed, as an attention might look
        truth = oracle.call(*oracle.inputs).detach()
    compare("output", [output], [truth], allowed, than)
    compare_rows("output", output, truth, allowed, than)
    if small.case.mode != "forward":
        take_state(oracle, small)
        mine, truth, count = small._both(), oracle._both(), len(small.sources)
        for one, other in zip(mine[:count], truth[:count], strict=True):
            compare("gradient", [one], [other], 10 * allowed, than)
        compare("gradient by the parameters", mine[count:], truth[count:], 10 * allowed, than)


def tolerance(like: Tensor) -> float:
    """The relative error allowed on a tensor's dtype and device; TF32 has the digits of float16."""
    tf32 = device.is_gpu(like.device) and torch.get_float32_matmul_precision() != "highest"
    return dtypes.tolerance(name_of(like.dtype), tf32)


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
    case = replace(built.case, impl=impl, dtype=FLOAT64, device="cpu")
    module = seeded_module(case, subject).double().train(built.module.training)
    module.load_state_dict({name: wide(t) for name, t in built.module.state_dict().items()}, strict=False)
    tensors = tuple(wide(t).clone().requires_grad_(t.requires_grad) for t in built.inputs)
    return replace(built, case=case, module=module, call=subject.call(module, case), inputs=tensors,
                   target=wide(built.target))


def take_state(fresh: Workload, used: Workload) -> None:
    """Give a fresh module in training what the calls so far have changed in the buffers of another one."""
    if used.module.training:
        fresh.module.load_state_dict({name: t.detach().to("cpu", copy=True) for name, t in used.module.named_buffers()},
                                     strict=False)


def _check_memory(built: Workload) -> None:
    """Raise WrongResult where an output changes with later inputs, as it lies in their memory or the next one's."""
    values = [tensor.detach().clone() for tensor in built.inputs]
    output = built._forward()
    before = output.clone()
    for tensor, other in zip(built.inputs, other_values(values), strict=True):
        tensor.data.copy_(other)
    built._forward()
    for tensor, value in zip(built.inputs, values, strict=True):
        tensor.data.copy_(value)
    if not torch.equal(output, before):
        raise WrongResult("its output is overwritten when it is called again: it keeps the memory of it")


def _check_samples(built: Workload) -> None:
    """Raise WrongResult where a sample's output depends on the others that are beside it."""
    if built.case.shape.batch < 2:
        return
    output, allowed = built._forward(), tolerance(built.inputs[0])
    for sample in range(built.case.shape.batch):
        alone = built.anew(built.inputs, sample)
        take_state(alone, built)
        compare(f"output of sample {sample}", [output[sample]], [alone._forward()[0]], allowed, "that sample's alone")


def compare(what: str, results: Iterable[Tensor | None], truths: Iterable[Tensor | None], allowed: float,
            than: str) -> None:
    """Raise WrongResult unless ||result - truth|| <= allowed ||truth|| + what the result's dtype cannot represent.

    Several tensors count as one vector; a pair in which one does not exist is left out.
    """
    pairs = [(one, other) for one, other in zip(results, truths, strict=True) if one is not None and other is not None]
    if not pairs:
        return
    distance = math.hypot(*(float((wide(one) - wide(other)).norm()) for one, other in pairs))
    scale = math.hypot(*(float(wide(other).norm()) for _, other in pairs))
    dtype = pairs[0][0].dtype
    unseen = torch.finfo(dtype).tiny * sum(one.numel() for one, _ in pairs) ** 0.5
    if not distance <= allowed * scale + unseen:
        raise WrongResult(f"the {what} is {distance / scale if scale else distance:.1%} away from {than} (allowed for"
                          f" {name_of(dtype)}: {allowed:.1%})")


def compare_rows(what: str, result: Tensor, truth: Tensor, allowed: float, than: str) -> None:
    """Raise WrongResult where one of some rows [..., D], the first and the last among them, is far from the truth.

    A row may be ten times as wrong as the whole, in relation to itself or to the mean row, whichever is longer.
    """
    allowed = min(10 * allowed, 0.5)
    chosen = rows(result)
    one, other = (wide(tensor.reshape(-1, tensor.shape[-1])[chosen.to(tensor.device)]) for tensor in (result, truth))
    lengths = other.norm(dim=-1)
    unseen = torch.finfo(result.dtype).tiny * result.shape[-1] ** 0.5
    scale = lengths.clamp(min=float(lengths.square().mean().sqrt()))
    excess = (one - other).norm(dim=-1) - allowed * scale - unseen
    if not bool((excess <= 0).all()):
        worst = int(excess.nan_to_num(math.inf).argmax())
        away = float((one[worst] - other[worst]).norm() / scale[worst])
        raise WrongResult(f"row {int(chosen[worst]):,} of the {what} is {away:.1%} away from {than} (allowed for"
                          f" {name_of(result.dtype)}: {allowed:.1%})")


def rows(tensor: Tensor) -> Tensor:
    """Which rows [..., D] are looked at one by one: some at random, but the same each time, the first and the last."""
    count = tensor.numel() // max(1, tensor.shape[-1])
    drawn = torch.randint(count, (_ROWS - 2,), generator=torch.Generator().manual_seed(count), device="cpu")
    return torch.cat([torch.tensor([0, count - 1]), drawn]).unique()


class Drawing:
    """Knows if a block drew random numbers of torch's global generators: `drew`, once it is over."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.drew = device, False

    def __enter__(self) -> Drawing:
        self.before = self._states()
        return self

    def __exit__(self, *_: object) -> None:
        self.drew = any(not torch.equal(a, b) for a, b in zip(self.before, self._states(), strict=True))

    def _states(self) -> list[Tensor]:
        return device.draws(self.device)


def other_values(values: Sequence[Tensor]) -> list[Tensor]:
    """The same numbers in other places, by steps that undo themselves: what is as likely, and as well conditioned.

    Of q, k and v: all queries in reverse, and of the last quarter of the tokens the keys in reverse, the values so and
    each from its last channel to its first. A single input is reversed whole.
    """
    if len(values) == 1:
        return [_reversed(values[0], 1.0, channels=True)]
    return [_reversed(values[0], 1.0), *(_reversed(middle, 0.25) for middle in values[1:-1]),
            _reversed(values[-1], 0.25, channels=True)]


def _reversed(values: Tensor, share: float, channels: bool = False) -> Tensor:
    values, place = values.detach().clone(), rows_dim(values)
    if values.dim() and values.is_floating_point():
        count = values.shape[place]
        part = values.narrow(place, count - max(1, int(share * count)), max(1, int(share * count)))
        part.copy_(part.flip((place, -1) if channels else (place,)))
    return values


def rows_dim(values: Tensor) -> int:
    """Return the dimension of the tokens."""
    return -2 if values.dim() > 1 else -1
